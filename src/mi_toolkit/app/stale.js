// Marks results as soon as what they are of is no longer what is asked for.
(() => {
  const FORM = ["model", "prompt", "beams", "new-tokens"];
  const stands = (id) =>
    document.querySelector(`#${id} :is(textarea, input[type="number"], input:not([type="range"]))`)?.value;

  // A panel's own choices, when its button was pressed and now.
  const pressed = new Map(), answered = new Map();
  const choices = (panel) =>
    [...panel.querySelectorAll(":is(input:not([type=range]), textarea, .token)")]
      .filter((each) => !each.closest(".tools") && each.type !== "file")
      .map((each) => each.value ?? each.textContent).join("\n");
  const answer = (panel) => panel.querySelector(".html-container :is(table, [role=status]:not(.caption))");
  document.addEventListener("click", (event) => {
    // What the run before was told is no word on this one.
    if (event.target.closest?.("#analyze"))
      document.querySelectorAll(".toast-close").forEach((close) => close.click());
    const button = event.target.closest?.('button[id$="-run"]');
    const panel = button && document.getElementById(button.id.slice(0, -"-run".length));
    if (panel) pressed.set(panel.id, choices(panel));
  }, true);

  setInterval(() => {
    const facts = document.querySelector("#facts [data-form]");
    const of = facts && JSON.parse(facts.dataset.form);
    document.body.classList.toggle("stale", !!of && FORM.some((id, place) => stands(id) !== of[place]));
    for (const [id, before] of pressed) {
      const panel = document.getElementById(id), shown = panel && answer(panel);
      if (shown && answered.get(id)?.shown !== shown) answered.set(id, { shown, before });
      const known = answered.get(id);
      panel?.classList.toggle("stale-choices", !!shown && known.before !== choices(panel));
    }
  }, 150);
})();
