// Unpacks the script that all views of the page share, draws them, and tells a notebook our height.
(async () => {
  const tellHeight = () => {
    if (parent !== window) {
      parent.postMessage({ miToolkitHeight: document.documentElement.offsetHeight }, "*");
    }
  };
  new ResizeObserver(tellHeight).observe(document.documentElement);
  const drawings = [...document.querySelectorAll("[data-component]")];
  if (!drawings.length) return;
  try {
    const packed = atob(document.getElementById("circuitsvis").textContent);
    const bytes = Uint8Array.from(packed, (sign) => sign.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
    for (const drawing of drawings) {
      const properties = document.getElementById(drawing.id + "-properties").textContent;
      const component = CircuitsVis[drawing.dataset.component];
      CircuitsVis.render(drawing.id, component, JSON.parse(properties));
    }
  } catch (error) {
    for (const drawing of drawings) {
      drawing.textContent = "This view cannot be drawn here. It needs a browser of 2023 or later.";
    }
    throw error;
  }
})();
