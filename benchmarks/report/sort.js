// A click on a head sorts its table; a second click turns the order round. Without scripts the page loses only this.
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = table.tHead.rows[table.tHead.rows.length - 1].cells;
  [...heads].forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      [...heads].forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return numbers ? y - x : (x === "") - (y === "") || x.localeCompare(y);
      };
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? order(a, b) : order(b, a)));
      table.tBodies[0].append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
});
// Sheets of pictures are small until they are clicked.
document.querySelectorAll(".sheet img").forEach((image) => {
  image.addEventListener("click", () => image.parentElement.classList.toggle("large"));
});
