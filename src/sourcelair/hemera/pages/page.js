// What every page does: it follows its server, says how far that is, and goes there. Works with what elements there are.
(() => {
  const root = document.documentElement, data = root.dataset, find = (id) => document.getElementById(id);
  const set = (id, text) => { const to = find(id); if (to && to.textContent !== text) to.textContent = text; };
  const STAGES = ["queued", "starting", "listening", "ready"], loaded = performance.now(), opened = data.state;
  let began = loaded - 1000 * (data.elapsed || 0), usual = +data.usual || 0, spoken = -1e9;
  let source, later, plain = false, going = false, failures = 0, asked = loaded, idle = false, run, next = 0;

  function close() {
    clearTimeout(later);
    if (source) source.close();
    source = null;
  }

  // To the app, or to what the page looks like by now. A reload keeps path, query and fragment.
  function go(pause) {
    if (going) return;
    going = true;
    close();
    if (pause > 0) setTimeout(() => location.reload(), pause); else location.reload();
  }
  const soon = () => go(Math.max(0, 1000 - (performance.now() - loaded)));

  function show(now) {
    const at = STAGES.indexOf(now.stage);
    if (now.stage !== data.stage || performance.now() - spoken > 10000) {  // spoken aloud: not every place in a queue
      spoken = performance.now();
      set("said", now.said);
    }
    data.stage = now.stage;
    document.querySelectorAll("[data-step]").forEach((step) => {
      const its = STAGES.indexOf(step.dataset.step);
      step.className = its < at ? "done" : "";
      if (its === at) step.setAttribute("aria-current", "step"); else step.removeAttribute("aria-current");
    });
    tick();
  }

  function told(now) {
    clearTimeout(later);
    failures = 0;
    if (now.elapsed !== null) began = performance.now() - 1000 * now.elapsed;
    usual = now.usual || 0;
    if (now.state === "awake") {
      data.late || show(now);
      return go(data.late ? 1000 : 0);  // late: it was awake, and yet this page came
    }
    if (now.page !== opened || (opened === "failed" && now.changed !== (+data.changed || 0))) return soon();
    if (opened === "starting") show(now);
    if (!source) later = setTimeout(follow, document.hidden ? 5000 : 2000);
    idle = now.state === "asleep" || now.state === "failed";
  }

  // Nobody may be waking it any more: whoever did so may have gone.
  function wake() {
    asked = performance.now();
    fetch("/.hemera/wake", { method: "POST" }).then((answer) => answer.ok || soon(), () => {});
  }

  function log(news) {
    const box = find("log"), text = box && box.querySelector("pre");
    if (!text) return;
    if (news.run !== run) { run = news.run; next = 0; text.textContent = ""; }
    const lines = news.lines.slice(Math.max(0, next - news.first));
    if (!lines.length) return;
    next = news.first + news.lines.length;
    const below = text.scrollHeight - text.scrollTop - text.clientHeight < 24;
    lines.forEach((line) => text.append(line + "\n"));
    while (text.childNodes.length > 500) text.firstChild.remove();
    box.hidden = false;
    if (below) text.scrollTop = text.scrollHeight;
  }

  function lost() {
    close();
    if (++failures > 4) go(5000); else later = setTimeout(follow, 400 * 2 ** failures);
  }

  // A stream while somebody looks; a question now and then in a hidden tab, and where streams do not come through:
  // browsers open six connections to a host, and the app needs them.
  function follow() {
    close();
    if (going) return;
    if (self.origin === "null") {  // a sandboxed iframe: it may not ask anything of its own host
      later = setTimeout(() => go(0), 2000);
      return;
    }
    if (document.hidden || plain) {
      fetch("/.hemera/state", { cache: "no-store" }).then((answer) => answer.ok ? answer.json() : Promise.reject()).then(told, lost);
      return;
    }
    source = new EventSource("/.hemera/events");
    later = setTimeout(() => { plain = true; follow(); }, 6000);
    source.addEventListener("state", (event) => told(JSON.parse(event.data)));
    source.addEventListener("log", (event) => log(JSON.parse(event.data)));
    source.onerror = lost;
  }

  function tick() {
    const seconds = Math.max(0, Math.round((performance.now() - began) / 1000));
    if (opened === "starting") {
      if (idle && !document.hidden && performance.now() - asked > 15000) wake();
      const typical = usual >= 1 ? Math.round(usual) : 0;
      set("time", seconds + " s" + (!typical ? "" : seconds > typical ? ", longer than the usual " + typical + " s" : " of usually " + typical + " s"));
      const floor = { queued: .1, starting: .2, listening: .7, ready: 1 }[data.stage] || 0;
      root.style.setProperty("--p", Math.max(floor, usual ? Math.min(.9, seconds / usual) : 1.15 * floor).toFixed(3));
    } else if (data.retry) {
      const left = Math.ceil(data.retry - (performance.now() - loaded) / 1000);
      set("left", Math.max(0, left) + (left === 1 ? " second" : " seconds"));
      if (left <= 0 && !document.hidden) go(0);
    }
  }

  const form = document.querySelector("form");
  if (form) form.addEventListener("submit", () => {
    form.action = "/.hemera/retry?to=" + encodeURIComponent(location.pathname + location.search) + location.hash;
  });
  const when = find("when");
  if (when) when.textContent = new Date(when.dateTime).toLocaleTimeString([], { timeStyle: "short" });
  tick();
  setInterval(tick, 1000);
  if (opened === "starting" || opened === "failed") {
    document.addEventListener("visibilitychange", follow);
    addEventListener("pageshow", (event) => { if (event.persisted) { going = false; follow(); } });
    addEventListener("pagehide", close);
    follow();
  }
})();
