// The tour of a first visit: at most six steps, each beside the part of the page that it is about.
// It covers nothing: the page can be used meanwhile. `?tour=off` in the address leaves it out.
(() => {
  const SEEN = "mi_toolkit.tour";
  const MARGIN = 12;
  const STEPS = [
    ["#generator", "Model and prompt", "Choose a model and type a prompt. The bundled models answer in a second."],
    ["#analyze", "Analyze", "Runs the prompt through the model. All figures are of this prompt; those that stand there now are of an example."],
    ["#tokens", "Stage by stage", "Tokens, embedding, attention, MLP, output: what the model does, in order."],
    ["#attention", "The head map", "Each cell is an attention head, coloured by what it does here. Choose one to see where it looks."],
    ["#ablate", "Investigate", "Take heads out, and see what becomes of the prediction. Further down, change single weights."],
    [".tools", "As code", "Every panel ends in the lines of Python that give the same, and in files to keep."],
  ];
  let steps = [], at = 0, bubble = null, target = null, before = null;

  const shown = (selector) =>
    [...document.querySelectorAll(selector)].find((each) => each.getClientRects().length);

  function place() {
    if (!bubble) return;
    const box = target.getBoundingClientRect(), own = bubble.getBoundingClientRect();
    const room = { width: document.documentElement.clientWidth, height: window.innerHeight };
    const below = box.bottom + MARGIN, above = box.top - MARGIN - own.height;
    const last = room.height - own.height - MARGIN;
    const top = below <= last ? below : above >= MARGIN ? above : last;
    const left = Math.min(Math.max(box.left, MARGIN), room.width - own.width - MARGIN);
    bubble.style.top = `${Math.max(top, MARGIN)}px`;
    bubble.style.left = `${Math.max(left, MARGIN)}px`;
  }

  function show(step) {
    at = step;
    target?.classList.remove("toured");
    const [element, title, text] = steps[at];
    target = element;
    target.classList.add("toured");
    bubble.querySelector("h2").textContent = title;
    bubble.querySelector("p").textContent = text;
    bubble.querySelector("small").textContent = `${at + 1} of ${steps.length}`;
    bubble.querySelector(".back").hidden = at === 0;
    const last = at === steps.length - 1;
    bubble.querySelector(".next").textContent = last ? "Done" : "Next";
    bubble.querySelector(".leave").hidden = last;
    const tall = target.getBoundingClientRect().height > window.innerHeight / 2;
    target.scrollIntoView({ block: tall ? "start" : "center" });
    place();
    bubble.querySelector(".next").focus({ preventScroll: true });
  }

  function start() {
    steps = STEPS.map(([selector, ...words]) => [shown(selector), ...words]).filter(([found]) => found);
    if (bubble || !steps.length) return;
    before = document.activeElement;
    bubble = document.createElement("div");
    bubble.className = "mi tour";
    bubble.id = "tour";
    bubble.setAttribute("role", "dialog");
    bubble.setAttribute("aria-labelledby", "tour-title");
    bubble.setAttribute("aria-describedby", "tour-text");
    bubble.innerHTML =
      '<h2 id="tour-title"></h2><p id="tour-text"></p><div><small></small>' +
      '<button type="button" class="leave">Skip</button>' +
      '<button type="button" class="back">Back</button>' +
      '<button type="button" class="next">Next</button></div>';
    bubble.querySelector(".leave").addEventListener("click", end);
    bubble.querySelector(".back").addEventListener("click", () => show(at - 1));
    bubble.querySelector(".next").addEventListener("click", () =>
      at + 1 < steps.length ? show(at + 1) : end());
    (document.querySelector(".gradio-container") ?? document.body).append(bubble);
    show(0);
  }

  function end() {
    bubble.remove();
    target.classList.remove("toured");
    bubble = target = null;
    try { localStorage.setItem(SEEN, "1"); } catch { /* a browser that keeps nothing */ }
    // Nobody had the focus at a first visit: it goes to where the tour can be taken again.
    const last = before?.isConnected && before !== document.body ? before : shown("#tour-button");
    last?.focus();
  }

  document.addEventListener("keydown", (event) => {
    if (!bubble || event.key !== "Escape") return;
    event.preventDefault();
    end();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#tour-button")) start();
  });
  window.addEventListener("scroll", place, { passive: true });
  window.addEventListener("resize", place);

  function firstVisit() {
    if (new URLSearchParams(location.search).get("tour") === "off") return false;
    try { return !localStorage.getItem(SEEN); } catch { return false; }
  }
  if (firstVisit()) {
    const waiting = setInterval(() => {
      if (!shown("#analyze") || !shown(".tools")) return;
      clearInterval(waiting);
      if (!bubble) start();
    }, 200);
  }
})();
