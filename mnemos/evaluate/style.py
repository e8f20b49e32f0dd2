"""The look of a report: one style sheet, light and dark, from a phone's width to a wide screen."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfbf9; --card: #ffffff; --ink: #24272d; --soft: #6d737d; --line: #e3e4e1;
  --first: #2f5bd7; --second: #c9621b; --code: #f3f3f0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --card: #1b1e24; --ink: #e6e7ea; --soft: #9aa1ad; --line: #31353d;
    --first: #86a5ff; --second: #f0a163; --code: #101216;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 56px 28px 72px; }
h1, h2, h3 { line-height: 1.2; letter-spacing: -0.012em; font-weight: 650; text-wrap: balance; }
h1 { font-size: clamp(1.75rem, 4.4vw, 2.7rem); margin: 6px 0 16px; max-width: 22em; }
h2 { font-size: 1.35rem; margin: 64px 0 8px; }
h3 { font-size: 1rem; margin: 0 0 2px; }
p { max-width: 68ch; margin: 0 0 14px; }
a { color: inherit; }
.brand { font-weight: 650; color: var(--soft); letter-spacing: 0.01em; }
.lede { font-size: 1.1rem; }
.soft, figcaption, caption { color: var(--soft); }
.first { color: var(--first); } .second { color: var(--second); }
.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px;
  margin: 32px 0 0; padding: 0;
}
.fact {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px 14px;
}
.fact dt { color: var(--soft); font-size: 0.86rem; line-height: 1.35; }
.fact dd {
  margin: 4px 0 2px; font-size: 1.75rem; font-weight: 650; letter-spacing: -0.02em;
  line-height: 1.2;
}
.fact dd.note {
  font-size: 0.86rem; font-weight: 400; letter-spacing: 0; line-height: 1.4; color: var(--soft);
  margin: 0;
}
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 14px 0 14px; padding: 0; list-style: none;
  font-size: 0.94rem;
}
.legend li::before {
  content: ""; display: inline-block; width: 18px; height: 4px; border-radius: 2px; background: currentColor;
  vertical-align: middle; margin-right: 8px;
}
.legend span { color: var(--ink); }
.pictures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: 16px;
}
figure {
  margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 18px 14px; min-width: 0;
}
figure svg { display: block; width: 100%; height: auto; margin: 8px 0 6px; }
figure svg text {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important;
}
figcaption { font-size: 0.88rem; line-height: 1.5; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 12px; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: 0.94rem; font-variant-numeric: tabular-nums; }
th, td {
  text-align: left; padding: 10px 16px; border-bottom: 1px solid var(--line); vertical-align: top;
}
tr:last-child > * { border-bottom: 0; }
th { font-weight: 500; color: var(--soft); }
thead th { font-weight: 650; }
td { white-space: nowrap; }
td small { display: block; color: var(--soft); font-size: 0.84rem; }
.plain td { white-space: normal; }
pre {
  background: var(--code); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px; margin: 12px 0; overflow-x: auto;
  font: 0.84rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
pre .prompt { color: var(--soft); }
pre.text { white-space: pre-wrap; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); padding: 12px 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 550; }
footer { margin-top: 64px; color: var(--soft); font-size: 0.88rem; }
@media (max-width: 560px) {
  main { padding: 32px 16px 48px; }
  h2 { margin-top: 48px; }
  figure { padding: 14px 12px 12px; }
  th, td { padding: 9px 10px; }
  td { white-space: normal; }
  table { font-size: 0.86rem; }
  .facts { grid-template-columns: 1fr 1fr; gap: 10px; }
  .fact { padding: 12px 14px; }
  .fact:last-child:nth-child(odd) { grid-column: span 2; }
  .fact dd { font-size: 1.45rem; }
}
"""
