// A picture to paint on. It shows a stroke while it is drawn; Python draws it and sends the picture.
const PAINTS = { brush: "rgba(0,114,178,.6)", eraser: "rgba(255,255,255,.6)" };

function render({ model, el }) {
  const { box, image } = pictureBox(el, "painter", 420);
  const canvas = document.createElement("canvas");
  canvas.style.cssText = "position:absolute;inset:0;width:100%;height:100%;pointer-events:none";
  box.append(canvas);
  const pen = canvas.getContext("2d");

  let points = []; // of the stroke that is being drawn, [row, column]
  let hand = null; // where the pointer or the keys are
  let byKeys = false;

  const lines = (corners) => {
    const shape = new Path2D();
    corners.forEach(([y, x], n) => (n ? shape.lineTo(x, y) : shape.moveTo(x, y)));
    return shape;
  };
  const circle = ([y, x], radius) => {
    const shape = new Path2D();
    shape.arc(x, y, radius, 0, 7);
    return shape;
  };
  const pixel = () => canvas.width / Math.max(1, box.clientWidth); // of the screen, in the picture's
  const twice = (shape) => {
    for (const [color, width] of [["#000", 4], ["#fff", 2]]) {
      pen.strokeStyle = color;
      pen.lineWidth = width * pixel();
      pen.stroke(shape);
    }
  };
  const draw = () => {
    const [tool, radius] = [model.get("tool"), model.get("radius")];
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.lineCap = pen.lineJoin = "round";
    if (points.length && PAINTS[tool]) {
      pen.lineWidth = 2 * radius;
      pen.strokeStyle = PAINTS[tool];
      pen.stroke(lines([...points, points[points.length - 1]]));
    } else if (points.length && tool === "polygon") {
      twice(lines(hand ? [...points, hand] : points));
      twice(circle(points[0], 5 * pixel())); // click here to close
    } else if (points.length && hand) {
      const [[top, left], [bottom, right]] = [points[0], hand];
      twice(lines([[top, left], [top, right], [bottom, right], [bottom, left], [top, left]]));
    }
    if (hand && (byKeys || PAINTS[tool])) twice(circle(hand, PAINTS[tool] ? radius : 4 * pixel()));
  };
  const forget = () => {
    points = [];
    draw();
  };
  const finish = () => {
    if (points.length) model.send({ tool: model.get("tool"), points, radius: model.get("radius") });
    forget();
  };
  const corner = ([y, x]) => {
    const near = points.length > 2 && Math.hypot(y - points[0][0], x - points[0][1]) < 10 * pixel();
    if (near) finish();
    else points.push([y, x]);
  };
  const move = (event) => {
    const [y, x] = fractions(event, image);
    byKeys = false;
    hand = [y * canvas.height, x * canvas.width];
  };

  box.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) return; // one finger paints
    box.focus();
    box.setPointerCapture(event.pointerId);
    move(event);
    if (model.get("tool") === "polygon") corner(hand);
    else points = [hand];
    draw();
  });
  box.addEventListener("pointermove", (event) => {
    if (!event.isPrimary) return;
    move(event);
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
    const from = hand || [canvas.height / 2, canvas.width / 2];
    if (ARROWS[event.key]) {
      const step = (event.shiftKey ? 1 : 8) * (canvas.width / 256);
      const [y, x] = from.map((at, axis) => at + step * ARROWS[event.key][axis]);
      hand = [
        Math.min(canvas.height - 1, Math.max(0, y)),
        Math.min(canvas.width - 1, Math.max(0, x)),
      ];
    } else if (event.key === " ") {
      hand = from;
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

  const resize = () => {
    [canvas.height, canvas.width] = model.get("size");
    forget();
  };
  return follow(model, { box, image }, { size: resize, tool: forget, radius: draw });
}

export default { render };
