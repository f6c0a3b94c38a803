// Grading by keyboard: A to D choose a grade, 1 to 6 tick abilities, Enter saves, Backspace goes back.
if (!window.owlRates) {
  window.owlRates = true;
  const press = (selector, place) => {
    const found = [...document.querySelectorAll(selector)].filter((each) => each.offsetParent !== null);
    if (found[place] && !found[place].disabled) found[place].click();
    return found.length > place;
  };
  document.addEventListener("keydown", (event) => {
    const where = event.target;
    const writes = where.matches("textarea, input:not([type=radio]):not([type=checkbox])");
    if (writes || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toUpperCase();
    let done = false;
    // A key that is held down grades once.
    if (event.repeat) done = "ABCD".includes(key) || key === "ENTER" || key === "BACKSPACE";
    else if (key.length === 1 && "ABCD".includes(key)) done = press("#owl-grade input", "ABCD".indexOf(key));
    else if (key >= "1" && key <= "9" && key.length === 1) done = press("#owl-abilities input", Number(key) - 1);
    else if (key === "ENTER" && !where.closest("button, a")) done = press("#owl-save", 0);
    else if (key === "BACKSPACE") done = press("#owl-back", 0);
    if (done) event.preventDefault();
  });
}
