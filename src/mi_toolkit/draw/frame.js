// In the notebook: gives each of our frames the height that its document asks for, and its picture
// as a background: a browser paints no frame that it takes to be out of sight, as in a screenshot
// of the whole page. A background runs nothing and loads nothing.
if (!window.miToolkitFrames) {
  window.miToolkitFrames = true;
  window.addEventListener("message", (event) => {
    const { miToolkitHeight: height, miToolkitPicture: picture } = event.data || {};
    for (const frame of document.querySelectorAll("iframe[data-mi-toolkit]")) {
      if (frame.contentWindow !== event.source) continue;
      if (typeof height === "number") frame.style.height = Math.ceil(height) + "px";
      if (typeof picture === "string") {
        const image = `url("data:image/svg+xml,${encodeURIComponent(picture)}")`;
        frame.style.background = `${image} 0 0 / 100% auto no-repeat`;
      }
    }
  });
}
