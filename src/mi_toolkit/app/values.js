// Reads out the values of patterns and maps: where the mouse rests, or where the arrow keys have walked.
(() => {
  const SCALE = 10000;
  const unpacked = new WeakMap();

  function grid(element) {
    if (!unpacked.has(element)) {
      const bytes = Uint8Array.from(atob(element.dataset.values), (sign) => sign.charCodeAt(0));
      unpacked.set(element, {
        values: new Uint16Array(bytes.buffer),
        down: JSON.parse(element.dataset.down),
        across: JSON.parse(element.dataset.across),
      });
    }
    return unpacked.get(element);
  }

  // Two kinds of drawing, each with its size, and what lights a place and reads it.
  const shownAs = (box) => {
    const drawn = box.querySelector(".value-grid"), table = box.querySelector(".pattern");
    if (drawn) {
      const { values, down, across } = grid(drawn);
      return {
        rows: down.length, columns: across.length,
        light(row, column) {
          const bars = [drawn.querySelector(".lit-row"), drawn.querySelector(".lit-column")];
          bars.forEach((bar) => (bar.hidden = false));
          bars[0].style.gridRow = row + 2;
          bars[1].style.gridColumn = column + 2;
          return `${down[row]} ${across[column]}: ${(values[row * across.length + column] / SCALE).toFixed(4)}`;
        },
      };
    }
    const rows = [...table.rows].slice(1);
    return {
      rows: rows.length, columns: rows.length,
      light(row, column) {
        table.querySelectorAll(".lit").forEach((each) => each.classList.remove("lit"));
        const cell = rows[row].cells[column + 1];
        const isSeen = cell && !cell.classList.contains("nothing");
        const lit = [rows[row].cells[0], table.rows[0].cells[column + 1], ...(isSeen ? [cell] : [])];
        lit.forEach((each) => each.classList.add("lit"));
        const [query, key] = lit.map((each) => each.textContent);
        return isSeen ? cell.title : `${query} → ${key}: not seen`;
      },
    };
  };

  function read(box, row, column) {
    const shown = shownAs(box);
    const at = [row, column].map((place, axis) =>
      Math.min(Math.max(place, 0), (axis ? shown.columns : shown.rows) - 1));
    box.dataset.at = JSON.stringify(at);
    box.querySelector("output").textContent = shown.light(...at);
  }

  document.addEventListener("mousemove", (event) => {
    const box = event.target.closest?.(".values");
    if (!box) return;
    const cell = event.target.closest(".pattern td:not(.nothing)");
    if (cell?.cellIndex) return read(box, cell.parentElement.rowIndex - 1, cell.cellIndex - 1);
    const picture = event.target.closest(".value-grid .pixels");
    if (!picture) return;
    const { rows, columns } = shownAs(box), space = picture.getBoundingClientRect();
    read(box, Math.floor(((event.clientY - space.top) / space.height) * rows),
      Math.floor(((event.clientX - space.left) / space.width) * columns));
  });

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    const box = event.target.closest?.(".values"), step = STEPS[event.key];
    if (!box || !step || event.target.matches("button")) return;
    event.preventDefault();
    const at = box.dataset.at ? JSON.parse(box.dataset.at) : [0 - step[0], 0 - step[1]];
    read(box, at[0] + step[0], at[1] + step[1]);
  });
  document.addEventListener("focusin", (event) => {
    const box = event.target.matches?.(".values > .wide") && event.target.closest(".values");
    if (box && !box.dataset.at && !event.target.matches(":hover")) read(box, 0, 0);
  });

  // What is wider than its place is scrolled by keys, too.
  setInterval(() => {
    for (const wide of document.querySelectorAll(".mi .wide:not([tabindex])"))
      if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
  }, 300);

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-zoom]"), box = button?.closest(".values");
    if (!box) return;
    const now = Number(box.style.getPropertyValue("--zoom")) || 1;
    box.style.setProperty("--zoom", Math.min(Math.max(now * Number(button.dataset.zoom), 0.5), 8));
  });
})();
