// Runs the functions of the guide's Node.js module.

const { registerImage, imageStatus } = require("./uploads.js");

async function main([command, ...values]) {
  if (command === "register") {
    await registerImage(...values);
  } else {
    console.log(await imageStatus(...values));
  }
}

main(process.argv.slice(2)).then(
  // The pool's connections would keep the process alive.
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
