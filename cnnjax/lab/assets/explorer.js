"use strict";

// The explorer: reads the settings, shows what is wrong with them or draws the window, and moves it step by step.
// Everything it shows is computed by arithmetic.js; images and kernels are in the page as JSON.
(() => {
  const { images, kernels, examples } = JSON.parse(document.getElementById("data").textContent);
  const NUMBERS = ["size", "window", "stride", "padding", "dilation", "extra"];
  const CHOICES = ["operation", "pool", "image"];
  const OWN = "your own";
  const CELL = 44;
  const PAUSE = 700; // milliseconds for each window while playing
  const element = (id) => document.getElementById(id);
  const fields = Object.fromEntries([...NUMBERS, ...CHOICES, "preset"].map((id) => [id, element(id)]));
  const stopped = window.matchMedia("(prefers-reduced-motion: reduce)");

  let shown = null; // {settings, cells, output, size}
  let place = [0, 0];
  let timer = null;

  // ---------------------------------------------------------------- settings

  const kernelInputs = () => [...element("kernel").querySelectorAll("input")];

  function kernelTexts() {
    const texts = kernelInputs().map((input) => input.value);
    const size = Math.sqrt(texts.length);
    return Array.from({ length: size }, (_, row) => texts.slice(row * size, (row + 1) * size));
  }

  function drawKernelInputs(size, texts) {
    const box = element("kernel");
    box.style.setProperty("--columns", size);
    box.replaceChildren(...Array.from({ length: size * size }, (_, n) => {
      const [row, column] = [Math.floor(n / size), n % size];
      const input = document.createElement("input");
      input.type = "text";
      input.value = texts[row]?.[column] ?? "0";
      input.setAttribute("aria-label", `Kernel, row ${row + 1}, column ${column + 1}`);
      return input;
    }));
  }

  // The named kernel at a size; null if it has no such size.
  function preset(name, size) {
    const known = kernels[name];
    if (typeof known === "string") {
      const middle = Math.floor((size - 1) / 2);
      const value = { ones: () => "1", mean: () => `1/${size * size}`,
        identity: (row, column) => (row === middle && column === middle ? "1" : "0") }[known];
      return Array.from({ length: size }, (_, row) => Array.from({ length: size }, (_, column) => value(row, column)));
    }
    return known && known.length === size ? known.map((row) => row.map(String)) : null;
  }

  function isHidden(field) {
    return fields[field].closest("[data-for]")?.hidden ?? false;
  }

  // The settings as numbers, and what is wrong with them: [{input, problem}].
  function read() {
    const settings = Object.fromEntries(CHOICES.map((id) => [id, fields[id].value]));
    const found = [];
    const image = images[settings.image];
    for (const id of NUMBERS) {
      const given = id === "size" ? { high: image.length } : {};
      const { value, problem } = isHidden(id)
        ? { value: id === "dilation" ? 1 : 0 }
        : Arithmetic.parseField(id, fields[id].validity.badInput ? "?" : fields[id].value, given);
      settings[id] = value;
      if (problem) found.push({ input: fields[id], problem });
    }
    settings.image = image.slice(0, settings.size).map((row) => row.slice(0, settings.size));
    if (settings.operation !== "pooling") {
      settings.kernel = kernelTexts().map((row) => row.map(Arithmetic.parse));
      kernelInputs().forEach((input) => {
        if (!(Math.abs(Arithmetic.parse(input.value)) <= 1000)) {
          const where = input.getAttribute("aria-label");
          found.push({ input, problem: `${where} must be a number from −1000 to 1000, like −1, 0.5 or 1/9, not “${input.value}”.` });
        }
      });
    }
    if (!found.length) {
      found.push(...Arithmetic.conflicts(settings).map(({ field, problem }) => ({ input: fields[field], problem })));
    }
    return { settings, found };
  }

  function hideWhatDoesNotApply() {
    const applies = fields.operation.value === "pooling" ? ["pooling", fields.pool.value] : [fields.operation.value];
    document.querySelectorAll("[data-for]").forEach((part) => {
      part.hidden = !part.dataset.for.split(" ").some((name) => applies.includes(name));
    });
  }

  function update() {
    hideWhatDoesNotApply();
    const { settings, found } = read();
    document.querySelectorAll("[aria-invalid]").forEach((input) => input.removeAttribute("aria-invalid"));
    found.forEach(({ input }) => input.setAttribute("aria-invalid", "true"));
    element("refusal").hidden = found.length === 0;
    element("refusal").textContent = found.map(({ problem }) => problem).join(" ");
    element("shown").inert = found.length > 0; // the last possible result stays, pale, so that nothing jumps
    if (found.length) {
      stop();
      return;
    }
    const cells = Arithmetic.picture(settings);
    shown = { settings, cells, output: Arithmetic.output(settings, cells), size: Arithmetic.outputSize(settings) };
    place = place.map((x) => Math.min(x, shown.size - 1));
    describe();
    draw();
    remember();
  }

  // ---------------------------------------------------------------- what is drawn

  const by = (size) => `${size} × ${size}`;

  function describe() {
    const { settings: s, cells } = shown;
    const formula = Arithmetic.sizeFormula(s);
    element("letters").textContent = formula.letters;
    element("numbers").textContent = formula.numbers;
    element("note").textContent = formula.note;
    const around = { transposed: "spread and extended to", pooling: "padded to", convolution: "padded to" }[s.operation];
    element("input-name").textContent = `Input ${by(s.size)}` + (cells.length === s.size ? "" : `, ${around} ${by(cells.length)}`);
    element("output-name").textContent = `Output ${by(shown.size)}`;
  }

  function shape(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const BLACK_FROM = 0.21; // share of the way to white from which black text has more contrast than white, both 4.5:1

  // Dark grey to white over the range of all values, with black or white text, whichever is readable.
  function shades(values) {
    const known = values.flat().filter(Number.isFinite);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    return (value) => {
      const share = high > low && Number.isFinite(value) ? (value - low) / (high - low) : 1;
      const mix = (from) => Math.round(from + share * (255 - from));
      return { fill: `rgb(${mix(70)} ${mix(82)} ${mix(94)})`, ink: share < BLACK_FROM ? "#ffffff" : "#000000" };
    };
  }

  function number(x, y, value, size, colour) {
    const text = Arithmetic.format(value);
    const fitted = Math.min(size, (CELL - 4) / (0.7 * text.length));
    return shape("text", { x, y, "font-size": fitted.toFixed(1), ...(colour && { fill: colour }) }, text);
  }

  function grid(svg, rows, cell) {
    const size = rows.length * CELL;
    svg.setAttribute("viewBox", `-2 -2 ${size + 4} ${size + 4}`);
    svg.style.setProperty("--cells", rows.length);
    svg.replaceChildren(...rows.flatMap((row, y) => row.map((value, x) => {
      const group = shape("g", { transform: `translate(${x * CELL} ${y * CELL})`, "data-row": y, "data-column": x });
      group.append(...cell(value, y, x));
      return group;
    })));
  }

  const square = (attributes) => shape("rect", { width: CELL, height: CELL, ...attributes });

  function draw() {
    const { settings, cells, output } = shown;
    const seen = Arithmetic.look(settings, cells, ...place);
    const taps = new Map(seen.taps.map((tap, n) => [`${tap.row} ${tap.column}`, { ...tap, wins: n === seen.winner }]));
    const shade = shades(settings.image);
    grid(element("input"), cells, ({ value, pixel }, y, x) => {
      const tap = taps.get(`${y} ${x}`);
      const look = pixel && !tap ? shade(value) : {}; // the style sheet has the colours of the others
      const kind = [pixel ? "pixel" : "blank", ...(tap ? ["tap"] : []), ...(tap?.wins ? ["winner"] : [])].join(" ");
      const weighted = tap && tap.weight !== null;
      const parts = [square({ ...(look.fill && { fill: look.fill }), class: kind })];
      if (value !== null) parts.push(number(CELL / 2, CELL * (weighted ? 0.38 : 0.5), value, 17, look.ink));
      if (weighted) {
        const text = `×${Arithmetic.format(tap.weight)}`;
        const size = Math.min(12, (CELL - 4) / (0.62 * text.length));
        parts.push(shape("text", { x: CELL / 2, y: CELL * 0.8, "font-size": size.toFixed(1), class: "weight" }, text));
      }
      return parts;
    });
    const [first] = seen.taps;
    const side = CELL * Arithmetic.span(settings);
    element("input").append(shape("rect", { x: first.column * CELL, y: first.row * CELL, width: side, height: side, class: "frame" }));
    const bright = shades(output);
    grid(element("output"), output, (value, y, x) => {
      const current = y === place[0] && x === place[1];
      const look = bright(value);
      const box = square({ fill: look.fill, class: "pixel" });
      return [box, number(CELL / 2, CELL / 2, value, 17, look.ink), ...(current ? [square({ class: "frame" })] : [])];
    });
    element("output").append(element("output").querySelector(`[data-row="${place[0]}"][data-column="${place[1]}"]`)); // on top
    element("place").textContent = `Row ${place[0] + 1}, column ${place[1] + 1}`;
    element("factors").replaceChildren(...seen.lines.flatMap((line, n) => (n ? [document.createElement("br"), line] : [line])));
    element("result").textContent = Arithmetic.format(seen.result);
    if (timer === null) element("live").textContent = `Row ${place[0] + 1}, column ${place[1] + 1}: ${Arithmetic.format(seen.result)}`;
  }

  // ---------------------------------------------------------------- moving

  function go(row, column) {
    if (!shown) return;
    place = [row, column].map((x) => Math.max(0, Math.min(x, shown.size - 1)));
    draw();
  }

  // The next position in reading order; the first follows the last.
  function advance(by_) {
    if (!shown) return;
    const total = shown.size * shown.size;
    const now = (place[0] * shown.size + place[1] + by_ + total) % total;
    go(Math.floor(now / shown.size), now % shown.size);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    element("play").textContent = "Play";
  }

  function play() {
    if (timer !== null) {
      stop();
      return;
    }
    timer = setInterval(() => advance(1), stopped.matches ? 3 * PAUSE : PAUSE);
    element("play").textContent = "Pause";
  }

  const KEYS = {
    ArrowLeft: ([row, column]) => [row, column - 1],
    ArrowRight: ([row, column]) => [row, column + 1],
    ArrowUp: ([row, column]) => [row - 1, column],
    ArrowDown: ([row, column]) => [row + 1, column],
    Home: () => [0, 0],
    End: () => [Infinity, Infinity],
  };

  element("grids").addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    stop();
    go(...KEYS[event.key](place));
  });
  element("output").addEventListener("click", (event) => {
    const cell = event.target.closest("[data-row]");
    if (!cell) return;
    stop();
    go(Number(cell.dataset.row), Number(cell.dataset.column));
  });
  element("back").addEventListener("click", () => { stop(); advance(-1); });
  element("next").addEventListener("click", () => { stop(); advance(1); });
  element("play").addEventListener("click", play);

  // ---------------------------------------------------------------- choosing

  // The chosen kernel, at the window's size if it has that size, else at its own.
  function fillKernel() {
    const name = fields.preset.value;
    const texts = preset(name, Number(fields.window.value)) ?? preset(name, 3);
    if (!texts) return;
    fields.window.value = texts.length;
    drawKernelInputs(texts.length, texts);
  }

  // A kernel of the new size: the chosen one if it has that size, else the previous values.
  function resizeKernel() {
    const { value } = Arithmetic.parseField("window", fields.window.value);
    if (value === undefined || value === kernelTexts().length) return;
    const named = preset(fields.preset.value, value);
    drawKernelInputs(value, named ?? kernelTexts());
    if (!named) fields.preset.value = OWN;
  }

  function apply(example) {
    Object.entries(example).forEach(([key, value]) => { fields[key].value = value; });
    fillKernel();
    place = [0, 0];
    update();
  }

  element("settings").addEventListener("submit", (event) => event.preventDefault());
  element("settings").addEventListener("input", (event) => {
    if (event.target === fields.image) fields.size.value = images[fields.image.value].length;
    if (event.target === fields.preset) fillKernel();
    if (event.target === fields.window) resizeKernel();
    if (element("kernel").contains(event.target)) fields.preset.value = OWN;
    update();
  });

  // The settings are kept in the address, so that a reload or a copied link shows the same.
  function remember() {
    const values = Object.entries(fields).map(([key, field]) => [key, field.value]);
    const texts = kernelTexts().map((row) => row.join(",")).join(";");
    history.replaceState(null, "", `#${new URLSearchParams([...values, ["kernel", texts]])}`);
  }

  function recall(address) {
    const known = new URLSearchParams(address.slice(1));
    if (!known.has("operation")) return;
    const isKnown = (field, value) => field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value);
    for (const [key, value] of known) {
      if (fields[key] && isKnown(fields[key], value)) fields[key].value = value;
    }
    const texts = (known.get("kernel") ?? "").split(";").slice(0, 7).map((row) => row.split(",").slice(0, 7));
    drawKernelInputs(Arithmetic.parseField("window", fields.window.value).value ?? 3, texts);
    update();
  }

  function option(name) {
    const made = document.createElement("option");
    made.textContent = made.value = name;
    return made;
  }

  NUMBERS.forEach((id) => {
    const [, low, high] = Arithmetic.RANGES[id];
    Object.assign(fields[id], { min: low, max: high, step: 1, required: true });
  });
  fields.image.append(...Object.keys(images).map(option));
  fields.preset.append(...[...Object.keys(kernels), OWN].map(option));
  element("examples").append(...Object.entries(examples).map(([name, example]) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.addEventListener("click", () => { stop(); apply(example); });
    return button;
  }));
  const address = location.hash; // before `remember` writes it
  apply(Object.values(examples)[0]);
  recall(address);
})();
