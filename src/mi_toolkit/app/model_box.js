// A text field with a list to choose from. What is typed or pasted counts; an entry of the list does
// when it is clicked, or walked to with the arrow keys and taken with Enter.
(() => {
  const FIELD = "input, textarea";
  const boxes = () =>
    [...document.querySelectorAll(".model-list")]
      .map((list) => ({ list, input: document.getElementById(list.dataset.for)?.querySelector(FIELD) }))
      .filter(({ input }) => input);
  const boxOf = (element) =>
    boxes().find(({ list, input }) => input === element || list.contains(element));
  const options = (box) => [...box.list.querySelectorAll("[role=option]")];
  const shown = (box) => options(box).filter((each) => !each.hidden);
  const active = (box) => box.list.querySelector("[aria-selected=true]");

  function mark(box, option) {
    for (const each of options(box)) each.setAttribute("aria-selected", each === option);
    if (option) {
      box.input.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    } else box.input.removeAttribute("aria-activedescendant");
  }

  function open(box, wanted = "") {
    const sought = wanted.trim().toLowerCase();
    for (const each of options(box)) each.hidden = !each.textContent.toLowerCase().includes(sought);
    mark(box, null);
    const any = shown(box).length > 0;
    box.list.querySelector("[role=listbox]").hidden = !any;
    box.input.setAttribute("aria-expanded", any);
  }

  function close(box) {
    mark(box, null);
    box.list.querySelector("[role=listbox]").hidden = true;
    box.input.setAttribute("aria-expanded", "false");
  }

  function take(box, value) {
    box.input.value = value;
    box.input.dispatchEvent(new Event("input", { bubbles: true }));
    close(box);
    // Not selected: a click on selected text would take the selection away again.
    box.input.setSelectionRange(value.length, value.length);
  }

  document.addEventListener("focusin", (event) => {
    const box = boxOf(event.target);
    if (box?.input !== event.target) return;
    event.target.select();
    open(box);
  });
  document.addEventListener("focusout", (event) => {
    const box = boxOf(event.target);
    if (box) close(box); // what is clicked in the list leaves the focus where it is
  });
  document.addEventListener("input", (event) => {
    const box = boxOf(event.target);
    if (box && document.activeElement === box.input) open(box, box.input.value);
  });
  document.addEventListener("keydown", (event) => {
    const box = boxOf(event.target);
    if (box?.input !== event.target) return;
    const isOpen = box.input.getAttribute("aria-expanded") === "true";
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (!isOpen) open(box);
      const all = shown(box), at = all.indexOf(active(box));
      mark(box, all[at < 0 ? (step > 0 ? 0 : all.length - 1) : (at + step + all.length) % all.length]);
    } else if (event.key === "Enter") {
      event.preventDefault();
      take(box, active(box)?.dataset.value ?? box.input.value.trim());
    } else if (event.key === "Escape" && isOpen) {
      event.stopPropagation();
      close(box);
    }
  }, true);
  document.addEventListener("mousedown", (event) => {
    const box = boxOf(event.target);
    if (!box || event.target === box.input) return;
    event.preventDefault(); // the field keeps the focus
    const option = event.target.closest("[role=option]");
    if (option) take(box, option.dataset.value);
  });
  document.addEventListener("click", (event) => {
    const box = boxOf(event.target);
    if (!box) return;
    if (event.target.closest(".clear")) {
      take(box, "");
      box.input.focus();
      open(box);
    } else if (event.target === box.input && box.input.getAttribute("aria-expanded") !== "true") {
      box.input.select();
      open(box);
    }
  });

  // Again and again: what is in a fold is on the page once it is unfolded.
  setInterval(() => {
    for (const { list, input } of boxes().filter((each) => !each.input.hasAttribute("role"))) {
      const attributes = {
        role: "combobox", autocomplete: "off", spellcheck: "false", "aria-autocomplete": "list",
        "aria-expanded": "false", "aria-controls": list.querySelector("[role=listbox]").id,
      };
      for (const [name, value] of Object.entries(attributes)) input.setAttribute(name, value);
    }
  }, 100);
})();
