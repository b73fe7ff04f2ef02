/** Something to try it with: a table as it comes out of three spreadsheets and a web form. */

const FIRST = ["Ana", "Bo", "Chloé", "Dmitri", "Eun-ji", "Farah", "Goran", "Hana", "Ines", "João"];
const LAST = ["Lopez", "Berg", "Moreau", "Ivanov", "Kim", "Aziz", "Kovač", "Sato", "Costa", "Weiß"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

export function sample(count = 10_000): File {
  const lines = ["Name;E-mail;Customer since;Turnover;Postcode"];
  for (let n = 0; n < count; n++) lines.push(row(n % 23 === 22 ? n - 11 : n, n).join(";"));
  return new File([lines.join("\n")], "customers.csv", { type: "text/csv" });
}

/** Of one person, written in the way of the `style`th day. */
function row(n: number, style: number): string[] {
  const name = `${FIRST[n % 10]} ${LAST[Math.floor(n / 10) % 10]}`;
  const user = `${FIRST[n % 10]}.${n}`.normalize("NFD").replace(/[^\w.]/g, "");
  return [
    style % 7 === 3 ? `  ${name.replace(" ", "   ")} ` : name,
    email(user, style),
    day(n, style),
    turnover(n, style),
    `0${(1000 + ((n * 37) % 9000)).toString()}`,
  ];
}

function email(user: string, style: number): string {
  if (style % 211 === 210) return "see card";
  const address = `${user}@example.com`;
  const ways = [address.toLowerCase(), address.toUpperCase(), `<${address}>`];
  return ways[style % 3] ?? address;
}

function day(n: number, style: number): string {
  const [y, m, d] = [2005 + (n % 20), 1 + (n % 12), 1 + (n % 28)];
  const two = (part: number) => String(part).padStart(2, "0");
  if (style % 307 === 306) return "last spring";
  const ways = [
    `${y}-${two(m)}-${two(d)}`,
    `${two(d)}.${two(m)}.${y}`,
    `${d} ${MONTHS[m - 1]} ${y}`,
  ];
  return ways[style % 3] ?? "";
}

function turnover(n: number, style: number): string {
  const [whole, cents] = [((n * 7919) % 90_000) + 1000, String(n % 100).padStart(2, "0")];
  const grouped = (mark: string) => String(whole).replace(/(\d)(?=(\d{3})+$)/g, `$1${mark}`);
  const ways = [`${whole}.${cents}`, `${grouped(".")},${cents} €`, `$${grouped(",")}.${cents}`];
  return ways[style % 3] ?? "";
}
