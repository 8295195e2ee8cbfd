// What picker.js and painter.js share; Python puts this file before each of them.
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// A picture in a box that takes the pointer and the keys.
function pictureBox(el, kind, width) {
  const box = document.createElement("div");
  box.className = `fss-${kind}`;
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes the keys
  box.style.cssText =
    `position:relative;display:inline-block;width:${width}px;max-width:100%;line-height:0;` +
    "cursor:crosshair;touch-action:none;user-select:none;margin:4px;overflow:hidden";
  const image = document.createElement("img");
  image.alt = "";
  image.draggable = false;
  image.style.cssText = "width:100%;display:block";
  box.append(image);
  el.append(box);
  return { box, image };
}

// Where an event lies, in fractions of the picture's height and width.
function fractions(event, image) {
  const { top, left, height, width } = image.getBoundingClientRect();
  return [(event.clientY - top) / height, (event.clientX - left) / width];
}

// Show picture and label, and call the listeners, by trait: now and after each change. Returns the end of it.
function follow(model, { box, image }, listeners) {
  const drawPicture = () => {
    const old = image.src;
    const bytes = model.get("picture");
    image.style.visibility = bytes.byteLength ? "visible" : "hidden";
    image.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    if (old) URL.revokeObjectURL(old);
  };
  const drawLabel = () => box.setAttribute("aria-label", model.get("label"));
  const all = Object.entries({ picture: drawPicture, label: drawLabel, ...listeners });
  for (const [trait, listener] of all) {
    model.on(`change:${trait}`, listener);
    listener();
  }
  return () => {
    for (const [trait, listener] of all) model.off(`change:${trait}`, listener);
    URL.revokeObjectURL(image.src);
  };
}

