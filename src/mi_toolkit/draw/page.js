// Unpacks the script that all drawings of the page share, draws them, and tells a notebook our height.
(async () => {
  const tellHeight = () => {
    if (parent !== window) {
      parent.postMessage({ miToolkitHeight: document.documentElement.offsetHeight }, "*");
    }
  };
  new ResizeObserver(tellHeight).observe(document.documentElement);
  // A frame out of sight is not laid out until it is scrolled to, unless somebody asks.
  for (const milliseconds of [0, 200, 1000, 3000]) setTimeout(tellHeight, milliseconds);

  // What is on the page as one SVG image, without scripts: for where a frame is not painted.
  const picture = () => {
    const page = document.documentElement.cloneNode(true);
    page.querySelectorAll("script").forEach((script) => script.remove());
    const canvases = document.querySelectorAll("canvas");
    page.querySelectorAll("canvas").forEach((copy, index) => {
      const image = document.createElement("img");
      const { offsetWidth, offsetHeight } = canvases[index];
      const { display, filter, imageRendering } = getComputedStyle(canvases[index]);
      image.src = canvases[index].toDataURL();
      const size = { width: `${offsetWidth}px`, height: `${offsetHeight}px` };
      Object.assign(image.style, { ...size, display, filter, imageRendering });
      copy.replaceWith(image);
    });
    const { offsetWidth, offsetHeight } = document.documentElement;
    const size = `width="${offsetWidth}" height="${offsetHeight}"`;
    const inside = new XMLSerializer().serializeToString(page);
    const held = `<foreignObject ${size}>${inside}</foreignObject>`;
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size}>${held}</svg>`;
  };
  const tellPicture = () => {
    if (parent !== window) parent.postMessage({ miToolkitPicture: picture() }, "*");
  };
  for (const milliseconds of [300, 2500]) setTimeout(tellPicture, milliseconds);

  // A pattern as small as it gets: one pixel for each pair of tokens.
  const FUTURE = [200, 200, 200];
  const pixels = (pattern, full) => {
    const canvas = document.createElement("canvas");
    const n = (canvas.width = canvas.height = pattern.length);
    const picture = new ImageData(n, n);
    for (let query = 0, at = 0; query < n; query++) {
      for (let key = 0; key < n; key++, at += 4) {
        const value = pattern[query][key];
        const colour = key > query ? FUTURE : full.map((c) => Math.round(255 + (c - 255) * value));
        picture.data.set([...colour, 255], at);
      }
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
    return canvas;
  };

  // circuitsvis takes seconds for a few hundred tokens: beyond that a plain picture with a read-out.
  const largePlain = (shown, pattern, tokens, full) => {
    const canvas = pixels(pattern, full);
    const readOut = document.createElement("p");
    readOut.textContent = "Rest the mouse on a point to read it.";
    canvas.addEventListener("mousemove", (event) => {
      const query = Math.floor((event.offsetY / canvas.clientHeight) * tokens.length);
      const key = Math.floor((event.offsetX / canvas.clientWidth) * tokens.length);
      if (!(query in tokens && key in tokens)) return;
      const value = key > query ? "not seen" : pattern[query][key];
      readOut.textContent = `${tokens[query]} (${query}) looks at ${tokens[key]} (${key}): ${value}`;
    });
    shown.append(readOut, canvas);
  };

  const large = (shown, pattern, { tokens, fullColour, full, circuitsvisUpTo }) => {
    if (tokens.length > circuitsvisUpTo) return largePlain(shown, pattern, tokens, full);
    const zeros = Array(tokens.length).fill(0);
    CircuitsVis.render(shown.id, CircuitsVis.AttentionPattern, {
      attention: pattern.map((row) => [...row, ...zeros.slice(row.length)]),
      tokens,
      maxValue: 1,
      minValue: -1,
      positiveColor: fullColour,
      zoomed: true,
    });
  };

  const drawHeads = (drawing, properties) => {
    const { heads, attention, fullColour } = properties;
    const full = [1, 3, 5].map((at) => parseInt(fullColour.slice(at, at + 2), 16));
    const choices = document.createElement("div");
    choices.className = "choices";
    choices.hidden = heads.length === 1;
    const panels = document.createElement("div");
    panels.style.maxWidth = `${Math.min(60, Math.max(40, 1.25 * properties.tokens.length + 10))}rem`;
    drawing.replaceChildren(choices, panels);
    const drawn = new Map();
    const choose = (chosen) => {
      [...choices.children].forEach((c, index) => c.setAttribute("aria-pressed", index === chosen));
      if (!drawn.has(chosen)) {
        const panel = document.createElement("div");
        const shown = document.createElement("div");
        panel.className = "large";
        shown.id = `${drawing.id}-${chosen}`;
        panel.append(Object.assign(document.createElement("h3"), { textContent: heads[chosen] }), shown);
        panels.append(panel);
        drawn.set(chosen, panel);
        large(shown, attention[chosen], { ...properties, full });
      }
      drawn.forEach((panel, index) => (panel.hidden = index !== chosen));
    };
    heads.forEach((name, index) => {
      const choice = document.createElement("button");
      choice.type = "button";
      choice.append(pixels(attention[index], full), name);
      choice.addEventListener("click", () => choose(index));
      choices.append(choice);
    });
    choose(0);
  };

  const drawings = [...document.querySelectorAll(".circuitsvis")];
  if (!drawings.length) return;
  try {
    const packed = atob(document.getElementById("circuitsvis").textContent);
    const bytes = Uint8Array.from(packed, (sign) => sign.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
    for (const drawing of drawings) {
      drawHeads(drawing, JSON.parse(document.getElementById(`${drawing.id}-properties`).textContent));
    }
    setTimeout(tellPicture, 300);
  } catch (error) {
    for (const drawing of drawings) {
      drawing.textContent = "This view cannot be drawn here. It needs a browser of 2023 or later.";
    }
    throw error;
  }
})();
