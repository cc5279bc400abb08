// Starts the page, or says what it lacks: most of its files are put beside it by build.py.

import("./demo.js").catch((error) => {
  const message = document.getElementById("message");
  message.textContent = `This copy of the page is incomplete (${error.message}). Put it together with: python docs/demo/build.py`;
  message.hidden = false;
  message.classList.add("bad");
  document.getElementById("status").textContent = "incomplete";
});
