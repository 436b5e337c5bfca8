// Says every five seconds that the panel around it is on screen.
const EVERY_MS = 5000;

function render({ model, el }) {
  el.classList.add("mlops-pulse");
  el.setAttribute("aria-hidden", "true");
  el.style.cssText = "width: 1px; height: 1px; margin: 0; overflow: hidden;";
  let onScreen = false;
  const say = () => {
    if (onScreen && document.visibilityState === "visible") model.send({ seen: true });
  };
  // what is observed is the panel, which may be taller than the window
  const watcher = new IntersectionObserver((entries) => {
    onScreen = entries[entries.length - 1].isIntersecting;
    say();
  });
  requestAnimationFrame(() => watcher.observe(el.closest(".mlops-panel") || el));
  document.addEventListener("visibilitychange", say);
  const timer = setInterval(say, EVERY_MS);
  return () => {
    clearInterval(timer);
    watcher.disconnect();
    document.removeEventListener("visibilitychange", say);
  };
}

export default { render };
