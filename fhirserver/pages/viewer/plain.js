// Next and previous without loading the page again: arrow keys, wheel, swipe; number keys choose a window.
"use strict";
const main = document.querySelector("main[data-pictures]");
if (main) {
  const pictures = JSON.parse(main.dataset.pictures);
  const image = document.getElementById("image"), figure = image.parentElement, failed = document.getElementById("failed");
  const place = document.getElementById("place"), windows = [...document.querySelectorAll("[data-window]")];
  const query = new URLSearchParams(location.search);
  let at = Number(main.dataset.image);

  const chosen = () => (windows.find((one) => one.hasAttribute("aria-current")) || { dataset: { window: "" } }).dataset.window;
  const address = (n) => `${pictures[n]}/rendered${chosen()}`;
  const ahead = (n) => { if (n >= 0 && n < pictures.length) new Image().src = address(n); };

  const show = () => {
    figure.classList.add("waits");
    image.src = address(at);
    image.alt = image.alt.replace(/\d+/, at + 1);
    place.textContent = `${at + 1} / ${pictures.length}`;
    query.set("image", at);
    history.replaceState(null, "", `?${query}`);
  };
  const step = (by) => {
    const to = Math.max(0, Math.min(pictures.length - 1, at + by));
    if (to === at) return;
    at = to;
    show();
  };
  const choose = (one) => {
    windows.forEach((other) => other.removeAttribute("aria-current"));
    one.setAttribute("aria-current", "true");
    query.set("window", new URL(one.href).searchParams.get("window"));
    show();
  };

  image.addEventListener("load", () => {
    figure.classList.remove("waits");
    failed.hidden = true;
    ahead(at + 1);
    ahead(at - 1);
  });
  image.addEventListener("error", () => { figure.classList.remove("waits"); failed.hidden = false; });
  if (image.complete && image.naturalWidth === 0) failed.hidden = false;

  for (const [id, by] of [["previous", -1], ["next", 1]]) {
    document.getElementById(id).addEventListener("click", (event) => { event.preventDefault(); step(by); });
  }
  windows.forEach((one) => one.addEventListener("click", (event) => { event.preventDefault(); choose(one); }));

  const keys = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in keys) { event.preventDefault(); step(keys[event.key]); }
    else if (windows[Number(event.key) - 1]) choose(windows[Number(event.key) - 1]);
  });
  let rolled = 0;
  figure.addEventListener("wheel", (event) => {
    if (event.ctrlKey) return;
    event.preventDefault();
    rolled += event.deltaMode === 0 ? event.deltaY : event.deltaY * 40;
    if (Math.abs(rolled) >= 40) { step(Math.sign(rolled)); rolled = 0; }
  }, { passive: false });
  let from = null;
  figure.addEventListener("touchstart", (event) => { from = event.touches.length === 1 ? event.touches[0] : null; }, { passive: true });
  figure.addEventListener("touchend", (event) => {
    if (!from) return;
    const across = event.changedTouches[0].clientX - from.clientX, down = event.changedTouches[0].clientY - from.clientY;
    const far = Math.abs(across) > Math.abs(down) ? across : down;
    if (Math.abs(far) > 30) step(far < 0 ? 1 : -1);
    from = null;
  }, { passive: true });
}
