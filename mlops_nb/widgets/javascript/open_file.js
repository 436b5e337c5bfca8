// A button that opens a file in JupyterLab once the kernel has said which one.
function place(path, home) { // inside of the folder that JupyterLab shows; null where it is elsewhere
  let settings = {};
  try { settings = JSON.parse(document.getElementById("jupyter-config-data").textContent); } catch { return null; }
  const root = (settings.serverRoot || "").replace(/^~/, home).replace(/\/$/, "");
  return root && path.startsWith(`${root}/`) ? { path: path.slice(root.length + 1), base: settings.baseUrl || "/" } : null;
}

function render({ model, el }) {
  el.classList.add("mlops", "mlops-open");
  const button = document.createElement("button"), said = document.createElement("span");
  button.type = "button";
  said.className = "muted";
  said.setAttribute("role", "status");
  const draw = () => {
    button.textContent = model.get("label");
    button.disabled = !model.get("enabled");
  };
  button.addEventListener("click", () => model.send({ open: true }));
  const open = ({ path, home, problem }) => {
    const found = path && place(path, home);
    said.textContent = problem ?? (found ? ` ${found.path}` : ` ${path} is outside of the folder that JupyterLab shows`);
    if (!found) return;
    const link = document.createElement("a"); // JupyterLab takes a click on such a link for a command
    link.href = `${found.base}lab/tree/${found.path.split("/").map(encodeURIComponent).join("/")}`;
    link.target = "_blank";
    link.hidden = true;
    link.dataset.commandlinkerCommand = "docmanager:open";
    link.dataset.commandlinkerArgs = JSON.stringify({ path: found.path });
    el.append(link);
    link.click();
    link.remove();
  };
  model.on("change:label", draw);
  model.on("change:enabled", draw);
  model.on("msg:custom", open);
  el.append(button, said);
  draw();
  return () => {
    model.off("change:label", draw);
    model.off("change:enabled", draw);
    model.off("msg:custom", open);
  };
}

export default { render };
