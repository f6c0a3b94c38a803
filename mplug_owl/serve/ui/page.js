() => {
  // Escape stops what is being written, wherever the cursor is, unless it leaves a message that is being edited.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const button of document.querySelectorAll("button.owl-stop, .owl-stop button")) {
      if (!button.disabled && button.offsetParent !== null) button.click();
    }
  });
  document.documentElement.lang = "en";
}
