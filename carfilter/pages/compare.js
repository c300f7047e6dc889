for (const stage of document.querySelectorAll(".stage")) {
  const slider = stage.querySelector("input[type=range]");
  slider?.addEventListener("input", () => stage.style.setProperty("--cut", `${slider.value}%`));
}
