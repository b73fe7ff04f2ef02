// Unpack the Chromium of @sparticuz/chromium into a folder of ours.
// It unpacks into the temporary folder, and adds NSS and expat only for the machines whose name stands here.
const { folder } = JSON.parse(process.argv[2]);
process.env.TMPDIR = folder;
process.env.AWS_EXECUTION_ENV = "AWS_Lambda_nodejs22.x";

const { default: chromium } = await import("@sparticuz/chromium");
console.log(JSON.stringify(await chromium.executablePath()));
