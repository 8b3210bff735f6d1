// Runs the script of the page as a browser does. The form has one file.
const fs = require("fs");

const pageUrl = process.argv[2];
const page = fs.readFileSync("index.html", "utf8");
for (const part of ['id="upload"', 'id="status"', 'name="file"', 'src="upload.js"']) {
  if (!page.includes(part)) throw new Error("the page has no " + part);
}

let submit;
const elements = {
  upload: { addEventListener: (name, handler) => { if (name === "submit") submit = handler; } },
  status: { set textContent(text) { console.log(text); } },
};
globalThis.document = { getElementById: (id) => elements[id] };
const realFetch = globalThis.fetch;
globalThis.fetch = (url, options) => realFetch(new URL(url, pageUrl), options);
globalThis.FormData = class extends FormData {
  constructor() {
    super();
    this.set("file", new File(["GIF89a"], "cat.gif", { type: "image/gif" }));
  }
};
require("./upload.js");
submit({ preventDefault() {} });
