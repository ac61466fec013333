"use strict";
// The form is made from openapi.json of this service; nothing is fetched from another address.
const at = (id) => document.getElementById(id);
const tasks = new Map();
let shown = null; // address of the shown result

const field = (option) => {
  const label = document.createElement("label");
  const choices = option.schema.enum;
  let input;
  if (option.schema.type === "boolean") {
    input = Object.assign(document.createElement("input"), { type: "checkbox" });
    label.append(input, " ", option.name);
  } else {
    input = document.createElement(choices ? "select" : "input");
    if (choices) for (const value of ["", ...choices]) input.add(new Option(value || "default", value));
    else input.placeholder = "default";
    label.append(option.name, input);
  }
  input.name = option.name;
  const help = document.createElement("small");
  help.textContent = option.description;
  label.append(help);
  return label;
};

const choose = () => {
  const task = tasks.get(at("verb").value);
  at("help").textContent = task.summary;
  at("options").replaceChildren(...task.parameters.map(field));
};

const query = () => {
  const found = new URLSearchParams();
  for (const input of at("options").querySelectorAll("input, select")) {
    const value = input.type === "checkbox" ? (input.checked ? "true" : "") : input.value.trim();
    if (value) found.set(input.name, value);
  }
  const text = found.toString();
  return text ? `?${text}` : "";
};

const clear = () => {
  if (shown) URL.revokeObjectURL(shown);
  shown = null;
  for (const id of ["image", "text", "download"]) at(id).hidden = true;
  at("record").replaceChildren();
};

const describe = (record) => {
  for (const [name, value] of Object.entries(record)) {
    const cells = [document.createElement("dt"), document.createElement("dd")];
    cells[0].textContent = name;
    cells[1].textContent = typeof value === "object" ? JSON.stringify(value) : value;
    at("record").append(...cells);
  }
};

const show = async (response, file) => {
  const kind = response.headers.get("content-type") || "";
  const blob = await response.blob();
  at("state").className = response.ok ? "" : "failed";
  at("state").textContent = `${response.status} ${response.ok ? response.headers.get("latens-status") : "failed"}, ${blob.size.toLocaleString("en")} bytes, ${kind}`;
  if (!response.ok) return describe(JSON.parse(await blob.text()));
  shown = URL.createObjectURL(blob);
  if (/^image\/(png|jpeg|webp|avif)/.test(kind)) Object.assign(at("image"), { src: shown, hidden: false });
  if (/json|^text\//.test(kind)) Object.assign(at("text"), { textContent: (await blob.text()).slice(0, 100000), hidden: false });
  const ending = { compress: "ltn" }[at("verb").value] || kind.replace(/;.*/, "").split("/")[1];
  Object.assign(at("download"), { href: shown, download: `${file.name.replace(/\.[^.]*$/, "")}.${ending}`, hidden: false });
  describe(JSON.parse(response.headers.get("latens-result") || "{}"));
};

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = at("file").files[0];
  const path = `v1/${at("verb").value}${query()}`;
  const token = at("token").value;
  clear();
  at("command").textContent = `curl${token ? " -H 'Authorization: Bearer TOKEN'" : ""} --data-binary @'${file.name}' '${new URL(path, location.href)}' -o result`;
  at("state").className = "";
  at("state").textContent = "working";
  at("send").disabled = true;
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    await show(await fetch(path, { method: "POST", body: file, headers }), file);
  } catch (error) {
    at("state").className = "failed";
    at("state").textContent = `no answer: ${error.message}`;
  } finally {
    at("send").disabled = false;
  }
});

fetch("openapi.json").then(async (response) => {
  for (const [path, methods] of Object.entries((await response.json()).paths)) {
    if (!path.startsWith("/v1/")) continue;
    tasks.set(path.slice(4), methods.post);
    at("verb").add(new Option(path.slice(4)));
  }
  at("verb").addEventListener("change", choose);
  choose();
});
