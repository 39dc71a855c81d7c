"use strict";
const search = document.getElementById("search");
const found = Array.from(document.querySelectorAll("[data-search]"));
search.hidden = false;
search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const element of found) {
    const text = element.dataset.search;
    element.hidden = !words.every((word) => text.includes(word));
  }
});
