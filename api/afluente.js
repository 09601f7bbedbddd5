/* Afluente: <script async src="https://EDGE/afluente.js" data-key="afw_..." data-consent-ads="true"></script>
   data-auto="off": no pageview by itself. data-clicks="all": inner links too, not only those that leave.
   afluente.track("initiate_checkout", {value: 9.9, currency: "BRL"}) */
(function (w, d) {
  "use strict";
  var me = d.currentScript;
  if (!me || w.afluente) return;
  var key = me.getAttribute("data-key");
  var base = new URL(me.src).origin;
  if (!key) { console.error("afluente: data-key is missing"); return; }

  function id() {
    if (w.crypto && crypto.randomUUID) return crypto.randomUUID();
    var b = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(b, function (x) { return (x + 256).toString(16).slice(1); }).join("");
  }
  /* Private windows throw: then it lasts for the page. */
  function keep(store, name, make) {
    var v;
    try { v = store().getItem(name); } catch (e) { v = null; }
    if (!v && (v = make())) try { store().setItem(name, v); } catch (e) {}
    return v || undefined;
  }
  function cookie(name) {
    var m = d.cookie.match("(?:^|; )" + name + "=([^;]*)");
    return m ? decodeURIComponent(m[1]) : undefined;
  }
  var q = new URLSearchParams(w.location.search);
  function local() { return w.localStorage; }
  function param(name) { return keep(local, "afl_" + name, function () { return q.get(name); }); }
  ["fbclid", "gclid", "click_id"].forEach(function (n) {
    if (q.get(n)) try { local().setItem("afl_" + n, q.get(n)); } catch (e) {}
  });
  var session = keep(function () { return w.sessionStorage; }, "afl_session", id);

  function track(type, more) {
    var now = new Date().toISOString(), e = {
      event_id: id(), event_type: type, occurred_at: now, sent_at: now, session_id: session,
      click_id: param("click_id"), fbclid: param("fbclid"), gclid: param("gclid"), fbp: cookie("_fbp"),
      fbc: cookie("_fbc"), url: w.location.href.slice(0, 4096), referrer: d.referrer.slice(0, 4096) || undefined
    };
    ["source", "medium", "campaign", "term", "content"].forEach(function (n) {
      var v = q.get("utm_" + n);
      if (v) e["utm_" + n] = v.slice(0, 512);
    });
    var ads = me.getAttribute("data-consent-ads");
    if (ads) e.consent_ads = ads === "true";
    for (var n in more || {}) e[n] = more[n];
    var to = base + "/track/batch?k=" + encodeURIComponent(key), body = JSON.stringify([e]);
    if (!(navigator.sendBeacon && navigator.sendBeacon(to, body)))
      fetch(to, { method: "POST", body: body, keepalive: true, credentials: "omit" }).catch(function () {});
    return e.event_id;
  }
  d.addEventListener("click", function (ev) {
    var a = ev.target && ev.target.closest && ev.target.closest("a[href]");
    if (!a || !/^https?:/.test(a.href)) return;
    if (a.host !== w.location.host || a.hasAttribute("data-afluente") || me.getAttribute("data-clicks") === "all")
      track("click", {
        properties: { href: a.href.slice(0, 4096), label: a.getAttribute("data-afluente") || undefined }
      });
  }, true);
  w.afluente = { track: track, session: session };
  if (me.getAttribute("data-auto") !== "off") track("pageview");
})(window, document);
