// The whole state of the page stands in its address: reload, back and a mailed link give the same page.
(() => {
  const FORM = ["model", "prompt", "beams", "tokens"];
  const parameters = () => new URLSearchParams(location.search);
  let written = location.search;
  function write(changes, isNew = false) {
    const next = parameters();
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) next.delete(name);
      else next.set(name, value);
    }
    if (next.toString() === parameters().toString()) return;
    history[isNew ? "pushState" : "replaceState"](history.state, "", `?${next}`);
    written = location.search;
  }

  // What stands on the page: of an example only once somebody has chosen something in it.
  let run = null, example = null;
  setInterval(() => {
    const facts = document.querySelector("#facts [data-form]");
    const head = document.querySelector('#head-map [aria-pressed="true"]')?.dataset.pick;
    const position = document.querySelector('#position-tokens [aria-pressed="true"]')?.dataset.pick;
    if (!facts || !head || !position || document.querySelector("#facts .pending")) return;
    const form = JSON.parse(facts.dataset.form);
    const isNew = run !== facts.dataset.run;
    const at = JSON.stringify([head, position]);
    if (isNew && "example" in facts.dataset) example = at;
    if (!("example" in facts.dataset) || at !== example) {
      const shown = Object.fromEntries(FORM.map((name, place) => [name, form[place]]));
      // A new prompt comes before its head: until that is there, the address keeps the one before.
      const hasOther = FORM.some((name) => parameters().get(name) !== shown[name]);
      write({ ...shown, head, position }, isNew && hasOther && run !== null);
    }
    run = facts.dataset.run;
  }, 200);

  document.addEventListener("click", (event) => {
    const fold = event.target.closest?.("#results .block > button.label-wrap");
    const panel = fold?.parentElement.id;
    if (!panel || !event.isTrusted) return;
    setTimeout(() => {
      if (fold.classList.contains("open")) write({ panel });
      else if (parameters().get("panel") === panel) write({ panel: null });
    }, 50);
  });

  window.miTheme = () => {
    const isDark = document.body.classList.toggle("dark");
    write({ __theme: isDark ? "dark" : "light" });
  };

  // Not for a jump within the page, which only adds a place (#generator).
  window.addEventListener("popstate", () => location.search !== written && location.reload());

  // As the page opens: the panel that the address names, and the analysis that it asks for.
  const opening = setInterval(() => {
    const asked = parameters();
    const panel = asked.get("panel") && document.getElementById(asked.get("panel"));
    if (!document.querySelector("#analyze") || !document.querySelector("#glossary")) return;
    clearInterval(opening);
    if (panel?.closest("#results")) {
      const fold = panel.querySelector("button.label-wrap");
      if (fold && !fold.classList.contains("open")) fold.click();
      panel.scrollIntoView({ block: "start" });
    }
  }, 100);

  // Enter analyzes, Shift+Enter breaks the line: gradio, which listens to both events, has it the other way round.
  const isEnter = (event) => event.key === "Enter" && !event.isComposing && event.target.matches?.("#prompt textarea");
  document.addEventListener("keypress", (event) => isEnter(event) && event.stopPropagation(), true);
  document.addEventListener("keydown", (event) => {
    if (!isEnter(event)) return;
    event.stopPropagation();
    if (event.shiftKey) return;
    event.preventDefault();
    document.querySelector("#analyze").click();
  }, true);
})();
