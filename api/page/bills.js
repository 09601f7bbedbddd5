// The page works without this: here it only keeps itself up to date and does not load anew for a switch.
(function () {
  "use strict";
  var board = document.getElementById("board");
  var said = document.getElementById("said");
  if (!board || !said) return;
  var lastText = "";
  var asking = false;
  var askAgain = false;

  function say(text) {
    said.textContent = text;
    said.classList.toggle("shown", !!text);
    if (text) setTimeout(function () { if (said.textContent === text) say(""); }, 4000);
  }

  function address(path, token) {
    var asked = new URLSearchParams(location.search);
    asked.delete("at_least");
    if (token) asked.set("at_least", token);
    var text = asked.toString();
    return path + (text ? "?" + text : "");
  }

  // The fresh board takes the old one's place; whoever works with a keyboard stays where they were.
  function show(text) {
    if (text === lastText) return;
    lastText = text;
    var focused = document.activeElement && board.contains(document.activeElement) ? document.activeElement.id : "";
    board.innerHTML = text;
    var again = focused && document.getElementById(focused);
    if (again) again.focus({ preventScroll: true });
  }

  function refresh(token) {
    if (asking && !token) { askAgain = true; return Promise.resolve(); }
    asking = true;
    return fetch(address("/app/bills/board", token), { headers: { Accept: "text/html" } })
      .then(function (answer) {
        if (answer.status === 401) { location.reload(); return; }
        if (!answer.ok) throw new Error(String(answer.status));
        return answer.text().then(show);
      })
      .catch(function () { say(board.dataset.away); setTimeout(refresh, 5000); })
      .then(function () {
        asking = false;
        if (askAgain) { askAgain = false; return refresh(); }
      });
  }

  board.addEventListener("submit", function (event) {
    var form = event.target;
    var button = form.querySelector("[role=switch]");
    if (!button) return;
    event.preventDefault();
    if (button.getAttribute("aria-busy") === "true") return;
    var was = button.getAttribute("aria-checked");
    button.setAttribute("aria-busy", "true");
    button.setAttribute("aria-checked", was === "true" ? "false" : "true");
    fetch(form.action, { method: "POST", headers: { Accept: "application/json" } })
      .then(function (answer) {
        if (!answer.ok) throw new Error(String(answer.status));
        return answer.json();
      })
      .then(function (answer) { return refresh(answer.version_token); })
      .then(function () { say(board.dataset.updated); })
      .catch(function () {
        button.setAttribute("aria-checked", was);
        say(board.dataset.failed);
      })
      .then(function () { button.removeAttribute("aria-busy"); });
  });

  function listen() {
    var source = new EventSource("/app/bills/changes");
    source.addEventListener("change", function () { refresh(); });
    source.onerror = function () {
      // A browser connects again by itself, unless it was refused.
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
    };
  }
  listen();
})();
