// A picture to paint on. It shows a stroke while it is drawn; Python draws it and sends the picture.
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "fss-painter";
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes the keys
  box.style.cssText =
    "position:relative;display:inline-block;width:420px;max-width:100%;line-height:0;" +
    "cursor:crosshair;touch-action:none;user-select:none;margin:4px;overflow:hidden";
  const image = document.createElement("img");
  image.alt = "";
  image.draggable = false;
  image.style.cssText = "width:100%;display:block";
  const canvas = document.createElement("canvas");
  canvas.style.cssText = "position:absolute;inset:0;width:100%;height:100%;pointer-events:none";
  box.append(image, canvas);
  el.append(box);
  const pen = canvas.getContext("2d");

  let points = []; // of the stroke that is being drawn, [row, column]
  let hand = null; // where the pointer or the keys are
  let byKeys = false;

  const path = (corners) => {
    pen.beginPath();
    corners.forEach(([y, x], n) => (n ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  };
  const draw = () => {
    const tool = model.get("tool");
    const unit = canvas.width / Math.max(1, box.clientWidth); // a screen pixel
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.lineCap = pen.lineJoin = "round";
    const radius = model.get("radius");
    if (points.length && (tool === "brush" || tool === "eraser")) {
      path([...points, points[points.length - 1]]);
      pen.lineWidth = 2 * radius;
      pen.strokeStyle = tool === "brush" ? "rgba(0,114,178,.6)" : "rgba(255,255,255,.6)";
      pen.stroke();
    }
    const twice = (shape) => {
      for (const [color, width] of [["#000", 4], ["#fff", 2]]) {
        pen.strokeStyle = color;
        pen.lineWidth = width * unit;
        shape();
        pen.stroke();
      }
    };
    if (points.length && tool === "box" && hand) {
      const [top, left] = points[0];
      twice(() => {
        pen.beginPath();
        pen.rect(left, top, hand[1] - left, hand[0] - top);
      });
    }
    if (points.length && tool === "polygon") {
      twice(() => path(hand ? [...points, hand] : points));
      twice(() => {
        pen.beginPath();
        pen.arc(points[0][1], points[0][0], 5 * unit, 0, 7); // click here to close
      });
    }
    if (hand && (byKeys || tool === "brush" || tool === "eraser")) {
      const ring = tool === "brush" || tool === "eraser" ? radius : 4 * unit;
      twice(() => {
        pen.beginPath();
        pen.arc(hand[1], hand[0], ring, 0, 7);
      });
    }
  };
  const finish = () => {
    if (points.length) {
      model.send({ tool: model.get("tool"), points, radius: model.get("radius") });
    }
    points = [];
    draw();
  };
  const forget = () => {
    points = [];
    draw();
  };
  const at = (event) => {
    const { top, left, height, width } = image.getBoundingClientRect();
    return [
      ((event.clientY - top) / height) * canvas.height,
      ((event.clientX - left) / width) * canvas.width,
    ];
  };
  const closes = ([y, x]) => {
    const near = (10 * canvas.width) / Math.max(1, box.clientWidth);
    return points.length > 2 && Math.hypot(y - points[0][0], x - points[0][1]) < near;
  };
  const corner = (place) => (closes(place) ? finish() : points.push(place));

  box.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) return; // one finger paints
    box.focus();
    box.setPointerCapture(event.pointerId);
    byKeys = false;
    hand = at(event);
    if (model.get("tool") === "polygon") corner(hand);
    else points = [hand];
    draw();
  });
  box.addEventListener("pointermove", (event) => {
    if (!event.isPrimary) return;
    byKeys = false;
    hand = at(event);
    if (points.length && model.get("tool") !== "polygon") points.push(hand);
    draw();
  });
  box.addEventListener("pointerup", (event) => {
    if (event.isPrimary && model.get("tool") !== "polygon") finish();
  });
  box.addEventListener("dblclick", () => {
    if (model.get("tool") === "polygon") finish();
  });
  box.addEventListener("pointercancel", forget);
  box.addEventListener("pointerleave", () => {
    if (!points.length) hand = null;
    draw();
  });
  // Arrow keys move, space paints or sets a corner, Enter closes a shape, Escape drops it.
  box.addEventListener("keydown", (event) => {
    const tool = model.get("tool");
    const step = (event.shiftKey ? 1 : 8) * (canvas.width / 256);
    if (ARROWS[event.key]) {
      const [down, right] = ARROWS[event.key];
      const from = hand || [canvas.height / 2, canvas.width / 2];
      hand = [
        Math.min(canvas.height - 1, Math.max(0, from[0] + step * down)),
        Math.min(canvas.width - 1, Math.max(0, from[1] + step * right)),
      ];
    } else if (event.key === " ") {
      hand = hand || [canvas.height / 2, canvas.width / 2];
      if (tool === "polygon") corner(hand);
      else {
        points.push(hand);
        if (tool !== "box" || points.length > 1) finish();
      }
    } else if (event.key === "Enter") finish();
    else if (event.key === "Escape") forget();
    else return;
    byKeys = true;
    event.preventDefault();
    event.stopPropagation();
    draw();
  });

  const drawPicture = () => {
    const old = image.src;
    const bytes = model.get("picture");
    image.style.visibility = bytes.byteLength ? "visible" : "hidden";
    image.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    if (old) URL.revokeObjectURL(old);
  };
  const resize = () => {
    [canvas.height, canvas.width] = model.get("size");
    forget();
  };
  const drawLabel = () => box.setAttribute("aria-label", model.get("label"));
  const listeners = {
    "change:picture": drawPicture,
    "change:size": resize,
    "change:label": drawLabel,
    "change:tool": forget,
    "change:radius": draw,
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  drawPicture();
  resize();
  drawLabel();
  return () => {
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
    URL.revokeObjectURL(image.src);
  };
}

export default { render };
