// In the notebook: gives each of our frames the height that its document asks for.
if (!window.miToolkitFrames) {
  window.miToolkitFrames = true;
  window.addEventListener("message", (event) => {
    const height = event.data && event.data.miToolkitHeight;
    if (typeof height !== "number") return;
    for (const frame of document.querySelectorAll("iframe[data-mi-toolkit]")) {
      if (frame.contentWindow === event.source) frame.style.height = Math.ceil(height) + "px";
    }
  });
}
