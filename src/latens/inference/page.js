for (const compare of document.querySelectorAll(".compare")) {
  const slider = compare.querySelector("input");
  const show = () => compare.style.setProperty("--at", slider.value + "%");
  slider.addEventListener("input", show);
  show();  // a browser may restore the value of an earlier visit
}
