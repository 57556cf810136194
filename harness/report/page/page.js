"use strict";
// A mark's tip, by pointer or keyboard. One stop of the Tab key a figure; arrows go from mark to mark.
(() => {
  const tip = document.getElementById("tip");

  const strip = (text, unit) => {
    const values = text.split(" ").map(Number);
    const low = Math.min(...values), high = Math.max(...values), range = high - low || 1;
    const points = values.map((value, n) => {
      const x = values.length > 1 ? (100 * n) / (values.length - 1) : 50;
      return `<circle cx="${x}%" cy="${44 - (40 * (value - low)) / range}" r="1.7"/>`;
    });
    const said = `<small>samples in order, ${low} to ${high} ${unit}</small>`;
    return `<svg aria-hidden="true">${points.join("")}</svg>${said}`;
  };

  const show = (mark) => {
    tip.textContent = mark.dataset.tip;
    if (mark.dataset.samples) tip.insertAdjacentHTML("beforeend", strip(mark.dataset.samples, mark.dataset.unit));
    tip.hidden = false;
    const at = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const room = document.documentElement.clientWidth - own.width - 8;
    const left = Math.max(8, Math.min(at.left + at.width / 2 - own.width / 2, room));
    const above = at.top - own.height - 8;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(above > 0 ? above : at.bottom + 8) + scrollY}px`;
  };
  const hide = () => { tip.hidden = true; };

  // Marks may lie on one another: of those below the pointer, the one whose middle is nearest is meant.
  const nearest = (marks, x, y) => {
    let best = null, least = Infinity;
    for (const mark of marks) {
      const box = (mark.querySelector(".halo") || mark).getBoundingClientRect();
      if (x < box.left || x > box.right || y < box.top || y > box.bottom) continue;
      const distance = Math.hypot(x - (box.left + box.right) / 2, y - (box.top + box.bottom) / 2);
      if (distance < least) [best, least] = [mark, distance];
    }
    return best;
  };

  for (const drawing of document.querySelectorAll("svg[role=group]")) {
    const marks = [...drawing.querySelectorAll(".mark")];
    if (marks.length) marks[0].tabIndex = 0;
    const point = (mark) => {
      for (const each of marks) each.classList.toggle("here", each === mark);
      if (mark) show(mark); else hide();
    };
    for (const kind of ["pointermove", "pointerdown"]) {
      drawing.addEventListener(kind, (event) => point(nearest(marks, event.clientX, event.clientY)));
    }
    drawing.addEventListener("pointerleave", () => point(null));
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const here = marks.indexOf(document.activeElement);
      if (!step || here < 0) return;
      event.preventDefault();
      const next = marks[(here + step + marks.length) % marks.length];
      marks[here].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
  document.addEventListener("focusin", (event) => { if (event.target.matches(".mark")) show(event.target); });
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  // Paper has no way to open what is closed; lists of block ids are left out.
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not(.block-table details)")) details.open = true;
  });
})();
