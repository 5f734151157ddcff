"""The look of `report.html`: one style sheet, light and dark as the reader's system is, narrow and wide."""

__all__ = ["CSS"]

CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1c2430;--soft:#5c6776;--rule:#e3e7ec;--accent:#2f6fde;
--fill:#2f6fde22;--good:#1a7f4b;--bad:#c2362f;--s0:#2f6fde;--s1:#12a594;--s2:#e5973a;--s3:#8e5bd6;--s4:#d9508a;
--s5:#6b7a8f;--s6:#7a9a2b;--s7:#b0653a}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1a2029;--ink:#e6eaf0;--soft:#98a4b3;--rule:#2a323d;
--accent:#6ea0ff;--fill:#6ea0ff26;--good:#54c98a;--bad:#ff7a70;--s0:#6ea0ff;--s1:#2fc7b4;--s2:#f0b060;--s3:#b48cf2;
--s4:#f07fb0;--s5:#8f9db0;--s6:#a9c95a;--s7:#d99568}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:25px;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:16px;margin:0 0 12px}
header p{margin:4px 0 0;color:var(--soft);overflow-wrap:anywhere}
.status{display:inline-block;font-size:13px;font-weight:600;border-radius:99px;padding:2px 12px;margin-bottom:8px;
color:var(--good);border:1px solid currentColor}
.status.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:22px 0}
.tile,section{background:var(--card);border:1px solid var(--rule);border-radius:12px}
.tile{padding:14px 16px}
.tile b{display:block;font-size:24px;line-height:1.2;font-variant-numeric:tabular-nums;font-weight:650}
.tile span{color:var(--soft);font-size:13px}
.tile.bad b{color:var(--bad)}
.grid2{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:16px}
section{padding:18px 20px;margin:0 0 16px;min-width:0}
.grid2>section{margin:0}
.grid2{margin-bottom:16px}
svg{width:100%;height:auto;display:block;overflow:visible}
svg text{font-size:12px;fill:var(--soft)}svg .name{font-weight:600}
.grid{stroke:var(--rule);stroke-width:1}.area{fill:var(--fill)}
.line{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round}
.mean{stroke:var(--soft);stroke-width:1;stroke-dasharray:4 4}
.column{fill:var(--accent)}
.bars{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,3fr) auto;gap:8px 12px;align-items:center}
.bar-name{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-size:14px}
.bar-track{background:var(--rule);border-radius:4px;height:12px}
.bar{height:12px;border-radius:4px;background:var(--accent)}
.bar.errors{background:var(--bad)}.bar-value{font-variant-numeric:tabular-nums;text-align:right}
.shares{display:flex;height:26px;border-radius:8px;overflow:hidden;gap:2px}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:6px 18px;padding:0;margin:14px 0 0;font-size:14px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}.legend span{color:var(--soft)}
.s0{background:var(--s0)}.s1{background:var(--s1)}.s2{background:var(--s2)}.s3{background:var(--s3)}
.s4{background:var(--s4)}.s5{background:var(--s5)}.s6{background:var(--s6)}.s7{background:var(--s7)}
.facts{display:grid;grid-template-columns:auto minmax(0,1fr);gap:5px 18px;margin:0}
.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.advice{border-left:3px solid var(--accent);padding:2px 0 2px 12px;margin:14px 0 0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(215px,1fr));gap:14px;align-items:stretch}
.card{border:1px solid var(--rule);border-radius:10px;overflow:hidden;display:flex;flex-direction:column;min-width:0}
.card .in{padding:12px;background:var(--bg);max-height:260px;overflow:auto;overflow-wrap:anywhere}
.card .out{padding:12px;flex:1;overflow-wrap:anywhere}.card p{margin:0 0 6px}
.card img{max-width:100%;display:block;margin:0 auto 4px;border-radius:6px}
.card img.pixelated{image-rendering:pixelated;width:128px}
.card audio{width:100%;height:36px}.card pre{white-space:pre-wrap;margin:0;font-size:12px}
.card footer{padding:6px 12px;border-top:1px solid var(--rule);color:var(--soft);font-size:12px;overflow:hidden;
text-overflow:ellipsis;white-space:nowrap}
.card blockquote{margin:0 0 6px;padding-left:10px;border-left:3px solid var(--rule);white-space:pre-wrap}
.field{display:block;color:var(--soft);font-size:12px}
.labels{list-style:none;margin:0;padding:0;font-size:14px}
.labels li{position:relative;display:flex;justify-content:space-between;gap:10px;padding:3px 8px;margin-bottom:4px}
.labels .fill{position:absolute;inset:0 auto 0 0;background:var(--fill);border-radius:5px}
.labels li>*:not(.fill){position:relative}
.labels b{white-space:nowrap;font-weight:600;font-variant-numeric:tabular-nums}
.labels .more,.note,.nothing{color:var(--soft);font-size:13px}
footer.page{color:var(--soft);font-size:13px;margin-top:24px}
@media(max-width:760px){.grid2{grid-template-columns:minmax(0,1fr)}main{padding:18px 12px 40px}
.facts{grid-template-columns:minmax(0,1fr);gap:0}.facts dd{margin-bottom:8px}
.cards{grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
.tile b{font-size:20px}section{padding:14px}}
@media print{body{background:#fff}.card,section{break-inside:avoid}}
"""
