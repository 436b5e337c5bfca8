// Says every five seconds that the panel around it is on screen, and keeps keys that are meant for the panel in it.
const EVERY_MS = 5000;

// JupyterLab takes letters, arrows and Enter as commands on the cell, also where a button or a menu of its output has the focus
const stay = (event) => {
  const isCommand = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
  if (!isCommand && event.key !== "Escape" && event.key !== "Tab") event.stopPropagation();
};

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
  let panel = null;
  requestAnimationFrame(() => {
    panel = el.closest(".mlops-panel") || el.parentElement;
    watcher.observe(panel);
    panel.addEventListener("keydown", stay);
  });
  document.addEventListener("visibilitychange", say);
  const timer = setInterval(say, EVERY_MS);
  return () => {
    clearInterval(timer);
    watcher.disconnect();
    panel?.removeEventListener("keydown", stay);
    document.removeEventListener("visibilitychange", say);
  };
}

export default { render };
