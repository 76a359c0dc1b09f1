"use strict";
(() => {
  const byId = (name) => document.getElementById(name);
  const { boxes, arrows, box: [WIDTH, HEIGHT] } = JSON.parse(byId("data").textContent);
  const picture = byId("picture"), drawing = byId("drawing"), view = byId("view"), panel = byId("panel"), find = byId("find");
  const shapes = boxes.map((_, at) => byId(`n${at}`));
  const lines = [...view.querySelectorAll(".arrows path")];
  const before = boxes.map(() => []), after = boxes.map(() => []);
  arrows.forEach(([a, b], at) => { after[a].push([b, at]); before[b].push([a, at]); });
  const asked = Math.max(0, boxes.findIndex((one) => one.about));
  const extent = drawing.viewBox.baseVal, whole = { width: extent.width, height: extent.height };
  const SHOWN = 100, MANY = 800, STILL = 140, SMALLEST = 0.02, LARGEST = 4, FAR = 0.38, NEAR = 0.85;
  let x = 0, y = 0, scale = 1, chosen = -1, moved = false, waiting = false, timer = 0;
  let drawn = { x: 0, y: 0, scale: 1 };

  // where one looks

  const room = () => picture.getBoundingClientRect();
  function apply() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (boxes.length <= MANY) { draw(); return; }
      // of a big picture what is on the screen is moved as it is, and drawn anew once it stands still
      const ratio = scale / drawn.scale;
      drawing.style.transform = `matrix(${ratio}, 0, 0, ${ratio}, ${x - drawn.x * ratio}, ${y - drawn.y * ratio})`;
      clearTimeout(timer);
      timer = setTimeout(draw, STILL);
    });
  }
  function draw() {
    if (boxes.length > MANY) cull();
    view.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
    picture.classList.toggle("far", scale < FAR);
    drawing.style.transform = "";
    drawn = { x, y, scale };
  }
  const bounds = boxes.length <= MANY ? [] : [
    ...boxes.map((one, at) => [shapes[at], one.x, one.y, one.x + WIDTH, one.y + HEIGHT]),
    ...lines.map((line) => {
      const numbers = line.getAttribute("d").match(/-?[\d.]+/g).map(Number);
      const across = numbers.filter((_, at) => at % 2 === 0), down = numbers.filter((_, at) => at % 2);
      return [line, Math.min(...across), Math.min(...down), Math.max(...across), Math.max(...down)];
    }),
  ];
  function cull() {
    const size = room(), left = -x / scale, top = -y / scale, right = left + size.width / scale, bottom = top + size.height / scale;
    for (const one of bounds) {
      const gone = one[3] < left || one[1] > right || one[4] < top || one[2] > bottom;
      if (one[5] !== gone) { one[0].style.display = gone ? "none" : ""; one[5] = gone; }
    }
  }
  function zoom(factor, atX, atY) {
    const size = room(), toX = atX ?? size.width / 2, toY = atY ?? size.height / 2;
    const next = Math.min(LARGEST, Math.max(SMALLEST, scale * factor));
    x = toX - (toX - x) * next / scale;
    y = toY - (toY - y) * next / scale;
    scale = next;
    moved = true;
    apply();
  }
  function showWhole() {
    const size = room();
    scale = Math.max(SMALLEST, Math.min(size.width / whole.width, size.height / whole.height, 1.25));
    x = (size.width - whole.width * scale) / 2;
    y = (size.height - whole.height * scale) / 2;
    draw();
  }
  function centre(at, least = NEAR) {
    const size = room(), one = boxes[at];
    scale = Math.max(scale, least);
    x = size.width / 2 - (one.x + WIDTH / 2) * scale;
    y = size.height / 2 - (one.y + HEIGHT / 2) * scale;
    draw();
  }
  function showAsked() {  // with room for where its lines lead
    const size = room(), one = boxes[asked];
    scale = size.width < 600 ? 0.7 : NEAR;
    x = (before[asked].length ? size.width - (WIDTH + 24) * scale : 24 * scale) - one.x * scale;
    y = size.height / 2 - (one.y + HEIGHT / 2) * scale;
    draw();
  }
  function inSight(at) {
    const size = room(), one = boxes[at], left = one.x * scale + x, top = one.y * scale + y;
    return left >= 0 && top >= 0 && left + WIDTH * scale <= size.width && top + HEIGHT * scale <= size.height;
  }
  function intoSight(at) {
    if (!inSight(at) || scale < FAR) centre(at);
  }
  function begin() {
    drawing.removeAttribute("viewBox");
    picture.classList.toggle("lazy", boxes.length > MANY);
    showWhole();
    if (scale < 0.5) showAsked();
  }

  // what is chosen

  function reach(start, near) {
    const seen = new Set([start]), along = [], front = [start];
    while (front.length) {
      for (const [other, line] of near[front.pop()]) {
        along.push(line);
        if (!seen.has(other)) { seen.add(other); front.push(other); }
      }
    }
    return [seen, along];
  }
  let lit = [];
  function choose(at, look = true) {
    moved = true;
    lit.forEach((one) => one.classList.remove("on", "chosen"));
    lit = [];
    chosen = at;
    picture.classList.toggle("tracing", at >= 0);
    if (at < 0) { show(asked); return; }
    for (const near of [before, after]) {
      const [seen, along] = reach(at, near);
      seen.forEach((one) => lit.push(shapes[one]));
      along.forEach((one) => lit.push(lines[one]));
    }
    lit.forEach((one) => one.classList.add("on"));
    shapes[at].classList.add("chosen");
    byId("said").textContent = `${boxes[at].kind}: ${boxes[at].title}. ${boxes[at].note}`;
    show(at);
    if (look) intoSight(at);
  }
  function make(tag, text, parent, kind) {
    const made = document.createElement(tag);
    if (text !== undefined) { const inner = document.createElement("bdi"); inner.textContent = text; made.append(inner); }
    if (kind) made.className = kind;
    if (parent) parent.append(made);
    return made;
  }
  function facts(rows, parent) {
    const list = make("dl", undefined, parent);
    for (const [key, value] of rows) { make("dt", key, list); make("dd", value, list); }
  }
  function member(one, parent) {
    facts(one.facts, parent);
    if (one.account) {
      const fold = make("details", undefined, parent);
      make("summary", "How it was made", fold);
      facts(one.account, fold);
    }
  }
  function ways(title, others, parent) {
    if (!others.length) return;
    make("h3", title, parent);
    const list = make("ul", undefined, parent, "ways");
    const more = (from) => {
      for (const other of others.slice(from, from + SHOWN)) {
        const button = make("button", boxes[other].title, make("li", undefined, list));
        button.type = "button";
        button.addEventListener("click", () => { choose(other); panel.focus({ preventScroll: true }); });
      }
      rest(list, others.length, from + SHOWN, more);
    };
    more(0);
  }
  function rest(list, count, from, more) {
    if (count <= from) return;
    const item = make("li", undefined, list), button = make("button", `${count - from} more`, item);
    button.type = "button";
    button.addEventListener("click", () => { item.remove(); more(from); });
  }
  function show(at) {
    const one = boxes[at];
    panel.replaceChildren();
    panel.scrollTop = 0;
    make("h2", one.title, panel);
    if (one.members.length === 1) {
      make("div", one.members[0].name, panel, "quiet");
      member(one.members[0], panel);
    } else {
      make("div", one.note, panel, "quiet");
    }
    ways(one.kind === "file" ? "Made by" : "Read", before[at].map(([other]) => other), panel);
    ways(one.kind === "file" ? "Went into" : "Made", after[at].map(([other]) => other), panel);
    if (one.members.length < 2) return;
    make("h3", one.kind === "file" ? "Files" : "Programs", panel);
    const list = make("ul", undefined, panel);
    const typed = find.value.trim().toLowerCase();
    const members = typed ? [...one.members].sort((a, b) => says(b, typed) - says(a, typed)) : one.members;
    const more = (from) => {
      for (const each of members.slice(from, from + SHOWN)) {
        const fold = make("details", undefined, make("li", undefined, list));
        make("summary", each.name, fold);
        fold.addEventListener("toggle", () => member(each, fold), { once: true });
      }
      rest(list, members.length, from + SHOWN, more);
    };
    more(0);
  }

  // what is looked for

  const says = (one, typed) => one.name.toLowerCase().includes(typed) || one.facts.some(([, value]) => value.toLowerCase().includes(typed));
  let hits = [], hit = -1;
  function look() {
    const typed = find.value.trim().toLowerCase();
    hits.forEach((at) => shapes[at].classList.remove("hit"));
    hits = [];
    hit = -1;
    let count = 0;
    if (typed) {
      boxes.forEach((one, at) => {
        const number = one.members.filter((each) => says(each, typed)).length;
        if (number) { hits.push(at); count += number; shapes[at].classList.add("hit"); }
      });
    }
    picture.classList.toggle("finding", hits.length > 0);
    byId("found").textContent = typed ? (count ? `${count} found` : "nothing found") : "";
    if (!typed) { show(chosen < 0 ? asked : chosen); return; }
    panel.replaceChildren();
    make("h2", count ? "Found" : "Nothing found", panel);
    ways("In the picture", hits, panel);
    if (hits.length && !hits.some(inSight)) centre(hits[0]);
  }
  function next(step) {
    if (!hits.length) return;
    hit = (hit + step + hits.length) % hits.length;
    byId("found").textContent = `${hit + 1} of ${hits.length}`;
    choose(hits[hit]);
  }
  find.addEventListener("input", look);
  find.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); next(event.shiftKey ? -1 : 1); }
    if (event.key === "Escape") { find.value = ""; look(); picture.focus({ preventScroll: true }); }
  });

  // pointers and keys

  const held = new Map();
  let path = 0, pinch = 0;
  const middle = () => { const all = [...held.values()]; return [all.reduce((s, p) => s + p[0], 0) / all.length, all.reduce((s, p) => s + p[1], 0) / all.length]; };
  const apart = () => { const [a, b] = [...held.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
  const at = (event) => { const size = room(); return [event.clientX - size.left, event.clientY - size.top]; };
  picture.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    held.set(event.pointerId, at(event));
    if (held.size === 1) path = 0;
    if (held.size === 2) pinch = apart();
  });
  picture.addEventListener("pointermove", (event) => {
    if (!held.has(event.pointerId)) return;
    const old = middle();
    held.set(event.pointerId, at(event));
    const now = middle();
    path += Math.hypot(now[0] - old[0], now[1] - old[1]);
    if (path > 4 && !picture.hasPointerCapture(event.pointerId)) picture.setPointerCapture(event.pointerId);
    picture.classList.add("moving");
    x += now[0] - old[0];
    y += now[1] - old[1];
    moved = true;
    if (held.size === 2) { const wide = apart(); if (pinch > 0) zoom(wide / pinch, now[0], now[1]); pinch = wide; path = 9; }
    apply();
  });
  function lifted(event) {
    held.delete(event.pointerId);
    if (!held.size) picture.classList.remove("moving");
  }
  picture.addEventListener("pointerup", lifted);
  picture.addEventListener("pointercancel", lifted);
  picture.addEventListener("click", (event) => {
    if (path > 4) return;
    const shape = event.target.closest(".boxes > g");
    choose(shape ? Number(shape.id.slice(1)) : -1, false);
  });
  picture.addEventListener("dblclick", (event) => { const [toX, toY] = at(event); zoom(1.6, toX, toY); });
  picture.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [toX, toY] = at(event);
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), toX, toY);
  }, { passive: false });
  function beside(from, step) {
    const row = boxes.map((_, number) => number).filter((number) => boxes[number].layer === boxes[from].layer).sort((a, b) => boxes[a].y - boxes[b].y);
    return row[row.indexOf(from) + step] ?? from;
  }
  function along(from, near) {
    const best = near[from].map(([other]) => other).sort((a, b) => Math.abs(boxes[a].y - boxes[from].y) - Math.abs(boxes[b].y - boxes[from].y));
    return best[0] ?? from;
  }
  picture.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const from = chosen < 0 ? asked : chosen;
    const act = {
      ArrowLeft: () => choose(chosen < 0 ? asked : along(from, before)), ArrowRight: () => choose(chosen < 0 ? asked : along(from, after)),
      ArrowUp: () => choose(beside(from, -1)), ArrowDown: () => choose(beside(from, 1)),
      "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => { moved = true; showWhole(); },
      "/": () => find.focus(), Enter: () => panel.focus({ preventScroll: false }), Escape: () => choose(-1), Home: () => choose(asked),
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  panel.addEventListener("keydown", (event) => { if (event.key === "Escape") picture.focus({ preventScroll: true }); });
  byId("nearer").addEventListener("click", () => zoom(1.25));
  byId("further").addEventListener("click", () => zoom(0.8));
  byId("whole").addEventListener("click", () => { moved = true; showWhole(); });
  byId("asked").addEventListener("click", () => { choose(asked, false); showAsked(); });
  new ResizeObserver(() => { if (!moved) begin(); }).observe(picture);
  begin();
  show(asked);
})();
