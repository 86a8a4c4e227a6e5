// Sets the mathematics, and filters tables by words. Works from disk: nothing is fetched.
"use strict";
(() => {
  const mathematics = () => {
    for (const one of document.querySelectorAll(".arithmatex")) {
      if (one.dataset.set) continue;
      const text = one.textContent.trim();
      const display = text.startsWith("\\[");
      katex.render(text.slice(2, -2), one, { displayMode: display, throwOnError: false });
      one.dataset.set = "yes";
    }
  };
  // What scrolls is reached by the keyboard.
  const reachable = () => {
    for (const one of document.querySelectorAll(".arithmatex, .md-typeset__scrollwrap, .md-typeset pre code")) {
      if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
    }
  };
  const filter = (input) => {
    const inside = document.querySelector(".md-content");
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...inside.querySelectorAll(".overview tbody tr")];
    let count = 0;
    for (const row of rows) {
      const text = `${row.dataset.text || ""} ${row.textContent}`.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += !row.hidden;
    }
    for (const part of inside.querySelectorAll(".scroll")) part.hidden = !part.querySelector("tbody tr:not([hidden])");
    input.closest(".filter").querySelector("[role=status]").textContent = words.length ? `${count} of ${rows.length}` : "";
    history.replaceState(null, "", words.length ? `#?q=${encodeURIComponent(input.value)}` : location.pathname + location.search);
  };
  // A failure that an address names is opened.
  const follow = () => {
    const name = decodeURIComponent(location.hash.slice(1));
    if (name.startsWith("?q=")) {
      for (const input of document.querySelectorAll(".filter input")) {
        input.value = name.slice(3);
        filter(input);
      }
      return;
    }
    const details = name && document.getElementById(name)?.querySelector("details");
    if (details) details.open = true;
  };
  const begin = () => {
    mathematics();
    for (const input of document.querySelectorAll(".filter input")) input.addEventListener("input", () => filter(input));
    follow();
    setTimeout(reachable, 0);  // the theme wraps tables first
  };
  addEventListener("hashchange", follow);
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", begin);
  else begin();
})();
