// Marks the results as soon as the form says something else than what they are of.
(() => {
  const FORM = ["model", "prompt", "beams", "new-tokens"];
  const stands = (id) =>
    document.querySelector(`#${id} :is(textarea, input[type="number"], input:not([type="range"]))`)?.value;
  setInterval(() => {
    const facts = document.querySelector("#facts [data-form]");
    const of = facts && JSON.parse(facts.dataset.form);
    document.body.classList.toggle("stale", !!of && FORM.some((id, place) => stands(id) !== of[place]));
  }, 150);
})();
