// Starts the live attack where it can run. Where it cannot, its place keeps a sentence that says why, and a slider.
(() => {
  const REASONS = {
    file: "This page was opened as a file, and a browser lets no file load the networks. To run the attack live, serve "
      + "the folder, python -m http.server --directory _build/html, and open http://localhost:8000/book/live.html.",
    wasm: "This browser has no WebAssembly, which runs the networks of the live attack.",
  };
  const reason = location.protocol === "file:" ? "file" : typeof WebAssembly !== "object" ? "wasm" : null;
  for (const place of document.querySelectorAll(".live")) {
    const say = (text) => {
      place.classList.remove("live-starting");
      const instead = place.querySelector(".aalp-slider") ? " In its place, a slider over pictures made in advance:" : "";
      place.querySelector(".live-why").textContent = text + instead;
    };
    if (reason) { say(REASONS[reason]); continue; }
    place.classList.add("live-starting");
    import("./page.js").then((page) => page.start(place)).catch((error) => say(`${error.message}.`.replace("..", ".")));
  }
})();
