// WhatsApp's text formatting, as DOM nodes. What a person wrote only ever becomes text
// nodes and the attributes of links that start with http(s): no HTML is parsed.

const STYLES = { "*": "strong", _: "em", "~": "s" };
const BLOCK = /\n?```([\s\S]+?)```\n?/g;
const LINE = /^(?:(>) ?|([-*•]) |(\d{1,3})[.)] )(?=\S)/;
const INLINE =
  /`([^`\n]+)`|(https?:\/\/[^\s<>"]*[^\s<>"'.,;:!?)\]}*_~])|(?<![\p{L}\p{N}])([*_~])(?=\S)([^\n]*?[^\s])\3(?![\p{L}\p{N}])/gu;
const ONLY_EMOJI = /^(?:\p{Extended_Pictographic}[\u{FE0F}\u{200D}\u{1F3FB}-\u{1F3FF}]*\s*){1,3}$/u;

export function formatted(text) {
  const fragment = document.createDocumentFragment();
  each(BLOCK, text, (plain) => lines(fragment, plain), (match) => {
    fragment.append(element("code", "block", match[1].replace(/^\n|\n$/g, "")));
  });
  return fragment;
}

export function onlyEmoji(text) {
  return ONLY_EMOJI.test(text.trim());
}

function lines(parent, text) {
  let open = false; // whether the line before needs a line break after it
  for (const line of text.split("\n")) {
    const marked = LINE.exec(line);
    if (open) parent.append("\n");
    if (!marked) {
      inline(parent, line);
      open = true;
      continue;
    }
    const block = element("span", marked[1] ? "quote" : "item");
    if (!marked[1]) block.append(element("span", "mark", marked[3] ? `${marked[3]}.` : "•"));
    inline(block, line.slice(marked[0].length));
    parent.append(block);
    open = false;
  }
}

function inline(parent, text) {
  each(INLINE, text, (plain) => parent.append(plain), (match) => {
    const [, code, url, style, styled] = match;
    if (code) parent.append(element("code", "", code));
    else if (url) parent.append(link(url));
    else inline(parent.appendChild(element(STYLES[style])), styled);
  });
}

function link(url) {
  const anchor = element("a", "", url);
  anchor.href = url;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer";
  return anchor;
}

function each(pattern, text, plain, found) {
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > end) plain(text.slice(end, match.index));
    found(match);
    end = match.index + match[0].length;
  }
  if (end < text.length) plain(text.slice(end));
}

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
