/* Tables of the results page and the landing page: choices of rows and columns, order by a column, intervals drawn.
   aalp_lib/book/results.py writes the HTML; without this script the tables stand there as a whole. */
(() => {
  const textOf = cell => cell.textContent.trim();
  const textsOf = option => JSON.parse(option.dataset.texts);
  const numberIn = text => {
    const found = text.replace("−", "-").match(/[+-]?\d+(\.\d+)?(e[+-]?\d+)?/);
    return found ? +found[0] : NaN;
  };

  function setUp(box) {
    const table = box.querySelector("table"), rows = [...table.tBodies[0].rows];
    const heads = [...table.tHead.rows[0].cells], names = heads.map(textOf);
    const drawn = heads.find(head => head.matches(".drawn"));
    const selects = [...box.querySelectorAll("select")];
    const columns = selects.find(select => select.dataset.column == "Columns");
    const cell = (row, name) => names.includes(name) ? textOf(row.cells[names.indexOf(name)]) : row.dataset.key;
    const chosen = select => textsOf(select.selectedOptions[0]);

    function show() {
      const wanted = selects.filter(select => select != columns).map(select => [select.dataset.column, chosen(select)]);
      const passes = row => wanted.every(([name, texts]) => !texts.length || texts.includes(cell(row, name)));
      rows.forEach(row => { row.hidden = !passes(row); });
      const left = rows.filter(row => !row.hidden), said = [`${left.length} of ${rows.length} rows`];
      heads.forEach((head, i) => {  // a column that says the same in every row is told above the table instead
        const texts = new Set(left.map(row => textOf(row.cells[i])).filter(text => text));
        const alike = selects.length && left.length > 1 && head != drawn && texts.size == 1;
        const out = columns && !chosen(columns).includes(names[i]);
        if (alike && !out && !texts.has("–")) said.push(`${names[i]}: ${[...texts]}`);
        [head, ...rows.map(row => row.cells[i])].forEach(one => { one.hidden = alike || out; });
      });
      if (selects.length) box.querySelector("output").textContent = said.join(" · ");
      if (drawn) draw(left, drawn);
    }

    function sort(head) {
      const i = heads.indexOf(head), way = head.ariaSort == "ascending" ? -1 : 1, number = head.matches(".n");
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.ariaSort = way > 0 ? "ascending" : "descending";
      const key = row => number ? numberIn(textOf(row.cells[i])) : textOf(row.cells[i]);
      const order = (a, b) => a === b ? 0 : a !== a ? 1 : b !== b ? -1 : a < b ? -way : way;  // no number: at the end
      [...rows].sort((a, b) => order(key(a), key(b))).forEach(row => row.parentElement.append(row));
    }

    if (selects.length || !drawn) heads.filter(head => head != drawn).forEach(head => {
      head.innerHTML = `<button type="button">${head.innerHTML}</button>`;
      head.firstChild.addEventListener("click", () => sort(head));
    });
    selects.forEach(select => select.addEventListener("change", show));
    box.querySelectorAll("p[hidden]").forEach(choices => { choices.hidden = false; });
    box.choose = choices => {
      selects.forEach(select => {
        const found = [...select.options].findIndex(option => option.textContent == choices[select.dataset.column]);
        select.selectedIndex = Math.max(0, found);
      });
      show();
    };
    show();
  }

  /* Gains with their intervals, all at one scale, in the cells of a column; a bar that is cut off ends in an arrow. */
  function draw(rows, head) {
    const gains = rows.map(row => JSON.parse(row.dataset.gain));  // mean, low, high, the paper's, each seed's
    const reach = 1.15 * Math.max(.1, ...gains.flatMap(([mean, , , paper, ...seeds]) => [mean, paper, ...seeds].map(Math.abs)));
    const power = 10 ** Math.floor(Math.log10(reach)), tick = power * [5, 2, 1].find(step => reach >= step * power);
    const at = value => `${50 + 48 * Math.max(-1, Math.min(1, value / reach))}%`;
    const text = (x, y, words, kind) => `<text x="${at(x)}" y="${y}" class="${kind}">${words}</text>`;
    const line = (a, b, y, z, kind) => `<line x1="${at(a)}" x2="${at(b)}" y1="${y}" y2="${z}" class="${kind}"/>`;
    const svg = parts => `<svg class="aalp-gain" aria-hidden="true">${parts.join("")}</svg>`;
    const words = tick < 1 ? tick.toFixed(1) : tick;
    head.querySelector("svg")?.remove();
    head.insertAdjacentHTML("beforeend", svg([text(-tick, 15, `−${words}`), text(0, 15, "0"), text(tick, 15, `+${words}`)]));
    rows.forEach((row, i) => {
      const [mean, low, high, paper, ...seeds] = gains[i];
      const parts = [-tick, 0, tick].map(x => line(x, x, 0, 28, x ? "grid" : "zero"));
      if (low !== null) parts.push(line(low, high, 12, 12, "interval"));
      if (low !== null && low < -reach) parts.push(text(-reach, 16.5, "◂", "end"));
      if (high !== null && high > reach) parts.push(text(reach, 16.5, "▸", "end"));
      if (seeds.length > 1) parts.push(...seeds.map(seed => line(seed, seed, 19, 25, "seed")));
      if (mean !== null) parts.push(`<circle cx="${at(mean)}" cy="12" r="5"/>`);
      if (paper !== null) parts.push(text(paper, 17.5, "◇", "paper"));
      row.cells[head.cellIndex].innerHTML = svg(parts);
    });
  }

  /* A link to a place shows the rows that it is about. */
  function go() {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!place?.dataset.set) return;
    place.closest(".aalp-table").choose(JSON.parse(place.dataset.set));
    place.scrollIntoView();
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".aalp-table").forEach(setUp);
    go();
    addEventListener("hashchange", go);
  });
})();
