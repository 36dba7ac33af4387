"use strict";

// What the explorer shows, as pure functions of its settings: which settings are impossible and why, the output's
// size, and the sum of every window. The formulas are those of cnnjax.geometry and cnnjax.ops.
//
// settings: {operation: "convolution" | "pooling" | "transposed", image: n rows of n numbers, size: n, kernel: rows of
//   numbers, window: taps along an axis, stride, padding, dilation, extra: output padding, pool: "max" | "min" |
//   "average"}
const Arithmetic = (() => {
  const LARGEST = 32; // rows of a picture that this page draws

  const RANGES = {
    size: ["Image size", 1, 16],
    window: ["Kernel size", 1, 7],
    stride: ["Stride", 1, 8],
    padding: ["Padding", 0, 8],
    dilation: ["Dilation", 1, 4],
    extra: ["Output padding", 0, 7],
  };

  // A number as text: at most three decimals, with a minus sign instead of a hyphen.
  function format(value) {
    if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
    const rounded = Number(value.toFixed(3));
    return String(rounded === 0 ? 0 : rounded).replace("-", "−");
  }

  const signed = (value) => (value < 0 ? `(${format(value)})` : format(value));

  // "-1", "0.5" or "1/9" as a number; NaN for anything else.
  function parse(text) {
    const parts = /^\s*([-+−]?(?:\d+\.?\d*|\.\d+))(?:\s*\/\s*(\d+))?\s*$/.exec(text);
    if (!parts) return NaN;
    return Number(parts[1].replace("−", "-")) / (parts[2] === undefined ? 1 : Number(parts[2]));
  }

  // The whole number in a field's text, or what is wrong with it: {value} or {problem}.
  function parseField(field, text, given = {}) {
    const [name, low, top] = RANGES[field];
    const high = given.high ?? top;
    const range = `a whole number from ${low} to ${high}`;
    if (text.trim() === "") return { problem: `${name} is empty: enter ${range}.` };
    if (!/^\s*[-−]?\d+\s*$/.test(text)) return { problem: `${name} must be ${range}, not “${text.trim()}”.` };
    const value = Number(text.replace("−", "-"));
    if (value < low || value > high) return { problem: `${name} must be ${range}, not ${format(value)}.` };
    return { value };
  }

  const span = ({ window, dilation }) => dilation * (window - 1) + 1;

  // Why settings that are each in range cannot be combined: [{field, problem}].
  function conflicts(s) {
    const found = [];
    const refuse = (field, problem) => found.push({ field, problem });
    const reach = span(s);
    const spans = s.dilation > 1 ? `spans ${reach} pixels (${s.window} taps, dilation ${s.dilation})` : `spans ${reach} pixels`;
    if (s.operation === "transposed") {
      if (s.extra >= Math.max(s.stride, s.dilation)) {
        refuse("extra", `Output padding ${s.extra} must be smaller than the stride or the dilation: it only chooses ` +
          "among the sizes that one stride covers.");
      }
      if (outputSize(s) < 1) {
        refuse("padding", `Padding ${s.padding} cuts off the whole output. Use less padding.`);
      }
    } else {
      const padded = s.size + 2 * s.padding;
      if (reach > padded) {
        const dilated = s.dilation > 1;
        refuse(dilated ? "dilation" : "window", `The kernel ${spans}, but the padded input has only ${padded}: use a ` +
          `smaller kernel${dilated ? " or dilation" : ""}, a larger image or more padding.`);
      }
      const most = Math.floor(reach / 2);
      if (s.operation === "pooling" && s.padding > most) {
        refuse("padding", `Padding ${s.padding} is more than half of the pooling window, ${most}: a window could see ` +
          "nothing but padding. Use less padding or a larger window.");
      }
    }
    const rows = found.length ? 0 : Math.max(pictureSize(s), outputSize(s));
    if (rows > LARGEST) {
      refuse("size", `That would be ${rows} × ${rows} cells, and this page draws up to ${LARGEST} × ${LARGEST}: use ` +
        "a smaller image, stride or padding.");
    }
    return found;
  }

  function outputSize(s) {
    if (s.operation === "transposed") return (s.size - 1) * s.stride - 2 * s.padding + span(s) + s.extra;
    return Math.floor((s.size + 2 * s.padding - span(s)) / s.stride) + 1;
  }

  const pictureSize = (s) =>
    s.operation === "transposed" ? outputSize(s) + span(s) - 1 : s.size + 2 * s.padding;

  // The formula of the output's size in letters and in numbers, and the pixels that the last step leaves unread.
  function sizeFormula(s) {
    const { size: i, window: k, stride, padding, dilation, extra } = s;
    const result = outputSize(s);
    if (s.operation === "transposed") {
      return {
        letters: "o = (i − 1)·s − 2p + d·(k − 1) + e + 1",
        numbers: `(${i} − 1)·${stride} − 2·${padding} + ${dilation}·(${k} − 1) + ${extra} + 1 = ${result}`,
        note: "",
      };
    }
    const room = i + 2 * padding - span(s);
    const left = room % stride;
    return {
      letters: "o = ⌊(i + 2p − d·(k − 1) − 1) / s⌋ + 1",
      numbers: `⌊(${i} + 2·${padding} − ${dilation}·(${k} − 1) − 1) / ${stride}⌋ + 1 = ` +
        `⌊${room} / ${stride}⌋ + 1 = ${result}`,
      note: left ? `${room} / ${stride} leaves ${left}: the last ${left === 1 ? "row and column" : `${left} rows and columns`} ` +
        "of the padded input stay unread." : "",
    };
  }

  // The cells that the window slides over: {value, pixel} by row and column; value is null where pooling ignores padding.
  function picture(s) {
    const transposed = s.operation === "transposed";
    const spacing = transposed ? s.stride : 1;
    const before = transposed ? span(s) - 1 - s.padding : s.padding;
    const blank = s.operation === "pooling" && s.pool !== "average" ? null : 0;
    const rows = pictureSize(s);
    const at = (place) => (place - before) / spacing;
    const inside = (x) => Number.isInteger(x) && x >= 0 && x < s.size;
    return Array.from({ length: rows }, (_, row) =>
      Array.from({ length: rows }, (_, column) => {
        const [y, x] = [at(row), at(column)];
        const pixel = inside(y) && inside(x);
        return { value: pixel ? s.image[y][x] : blank, pixel };
      }));
  }

  // Pixels between two windows over the picture.
  const step = (s) => (s.operation === "transposed" ? 1 : s.stride);

  // The kernel as it lies on the picture; a transposed convolution rotates it by 180 degrees.
  const laid = (s) => (s.operation === "transposed" ? s.kernel.map((row) => [...row].reverse()).reverse() : s.kernel);

  // One window: its taps in row-major order, its result, and both as text.
  function look(s, cells, row, column) {
    const taps = [];
    const kernel = laid(s);
    for (let a = 0; a < s.window; a += 1) {
      for (let b = 0; b < s.window; b += 1) {
        const place = [row * step(s) + a * s.dilation, column * step(s) + b * s.dilation];
        const { value } = cells[place[0]][place[1]];
        const weight = s.operation === "pooling" ? null : kernel[a][b];
        taps.push({ row: place[0], column: place[1], value, weight, product: weight === null ? value : value * weight });
      }
    }
    return { taps, ...(s.operation === "pooling" ? pooled(s, taps) : summed(taps)) };
  }

  function summed(taps) {
    const result = taps.reduce((total, tap) => total + tap.product, 0);
    const factors = taps.map((tap) => `${signed(tap.value)}·${signed(tap.weight)}`);
    return { result, lines: [factors.join(" + "), `= ${taps.map((tap) => signed(tap.product)).join(" + ")}`] };
  }

  function pooled(s, taps) {
    const seen = taps.filter((tap) => tap.value !== null).map((tap) => tap.value);
    if (s.pool === "average") {
      const total = seen.reduce((sum, value) => sum + value, 0);
      return { result: total / seen.length, lines: [`(${seen.map(signed).join(" + ")}) / ${seen.length}`,
        `= ${format(total)} / ${seen.length}`] };
    }
    const result = s.pool === "max" ? Math.max(...seen) : Math.min(...seen);
    const winner = taps.findIndex((tap) => tap.value === result);
    const lines = seen.length ? [`${s.pool}(${seen.map(format).join(", ")})`] : ["nothing but padding"];
    return { result, winner, lines };
  }

  // The whole output, row by row.
  function output(s, cells) {
    const size = outputSize(s);
    return Array.from({ length: size }, (_, row) =>
      Array.from({ length: size }, (_, column) => look(s, cells, row, column).result));
  }

  return { RANGES, conflicts, format, laid, look, output, outputSize, parse, parseField, picture, sizeFormula, span, step };
})();
