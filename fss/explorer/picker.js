// A picture to point at: mouse, touch or arrow keys. Python says what lies there.
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "fss-picker";
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes the arrow keys
  box.style.cssText =
    "position:relative;display:inline-block;width:320px;max-width:100%;line-height:0;" +
    "cursor:crosshair;touch-action:none;user-select:none;margin:4px;overflow:hidden";
  const image = document.createElement("img");
  image.alt = "";
  image.draggable = false;
  image.style.cssText = "width:100%;display:block";
  box.append(image);
  el.append(box);

  let frames = [];
  const drawMarks = () => {
    frames.forEach((frame) => frame.remove());
    frames = model.get("marks").map(([top, left, bottom, right]) => {
      const frame = document.createElement("div");
      frame.style.cssText =
        `position:absolute;pointer-events:none;top:${100 * top}%;left:${100 * left}%;` +
        `height:${100 * (bottom - top)}%;width:${100 * (right - left)}%;` +
        "box-shadow:0 0 0 1px #000,0 0 0 3px #fff,0 0 0 4px #000";
      box.append(frame);
      return frame;
    });
  };
  const drawPicture = () => {
    const old = image.src;
    image.src = URL.createObjectURL(new Blob([model.get("picture")], { type: "image/png" }));
    if (old) URL.revokeObjectURL(old);
  };
  const drawLabel = () => box.setAttribute("aria-label", model.get("label"));

  let waiting = false;
  let next = null; // only the latest place is worth an answer
  const send = (message) => {
    if (waiting) {
      next = message;
      return;
    }
    waiting = true;
    model.send(message);
  };
  const answered = () => {
    waiting = false;
    if (next) {
      const message = next;
      next = null;
      send(message);
    }
  };
  const point = (event) => {
    const { top, left, height, width } = image.getBoundingClientRect();
    send({ point: [(event.clientY - top) / height, (event.clientX - left) / width] });
  };
  box.addEventListener("pointerdown", (event) => {
    box.focus();
    box.setPointerCapture(event.pointerId);
    point(event);
  });
  box.addEventListener("pointermove", (event) => {
    if (box.hasPointerCapture(event.pointerId)) point(event);
  });
  box.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    send({ step });
  });

  const listeners = {
    "change:picture": drawPicture,
    "change:marks": drawMarks,
    "change:label": drawLabel,
    "change:answered": answered,
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  drawPicture();
  drawMarks();
  drawLabel();
  return () => {
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
    URL.revokeObjectURL(image.src);
  };
}

export default { render };
