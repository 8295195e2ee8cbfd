// A picture to point at: mouse, touch or arrow keys. Python says what lies there.
function render({ model, el }) {
  const { box, image } = pictureBox(el, "picker", 320);

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

  let waiting = false;
  let next = null; // only the latest place is worth an answer
  const send = (message) => {
    if (waiting) next = message;
    else {
      waiting = true;
      model.send(message);
    }
  };
  const answered = () => {
    const message = next;
    waiting = false;
    next = null;
    if (message) send(message);
  };

  box.addEventListener("pointerdown", (event) => {
    box.focus();
    box.setPointerCapture(event.pointerId);
    send({ point: fractions(event, image) });
  });
  box.addEventListener("pointermove", (event) => {
    if (box.hasPointerCapture(event.pointerId)) send({ point: fractions(event, image) });
  });
  box.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    send({ step });
  });
  return follow(model, { box, image }, { marks: drawMarks, answered });
}

export default { render };
