/** Something to try it with. */

export function sampleContacts(): File {
  const rows = ["email,name,company"];
  for (let n = 1; n <= 5000; n++) {
    rows.push(`${n % 1500 ? `person-${n}@example.com` : "unknown"},Person ${n},Company ${n % 97}`);
  }
  return new File([rows.join("\n")], "contacts.csv", { type: "text/csv" });
}

const NAMES = ["dawn", "harbour", "meadow", "dusk", "dunes", "glacier", "orchard", "storm"];
const [WIDTH, HEIGHT] = [1200, 900];

/** A landscape each: a sky, a sun and hills. */
export function samplePhotos(): Promise<File[]> {
  return Promise.all(NAMES.map(paint));
}

async function paint(name: string, seed: number): Promise<File> {
  const canvas = new OffscreenCanvas(WIDTH, HEIGHT);
  const brush = canvas.getContext("2d");
  if (!brush) throw new Error("this browser cannot draw");
  const hue = (seed * 47 + 15) % 360;
  const sky = brush.createLinearGradient(0, 0, 0, HEIGHT);
  sky.addColorStop(0, `hsl(${hue + 200} 60% 38%)`);
  sky.addColorStop(0.7, `hsl(${hue} 85% 74%)`);
  brush.fillStyle = sky;
  brush.fillRect(0, 0, WIDTH, HEIGHT);
  brush.fillStyle = `hsl(${hue + 30} 100% 90%)`;
  brush.beginPath();
  brush.arc(260 + ((seed * 173) % 680), 340 - ((seed * 61) % 160), 85, 0, 7);
  brush.fill();
  for (let ridge = 0; ridge < 4; ridge++) {
    brush.fillStyle = `hsl(${hue + 210} ${38 - ridge * 4}% ${48 - ridge * 11}%)`;
    brush.beginPath();
    brush.moveTo(0, HEIGHT);
    for (let x = 0; x <= WIDTH; x += 10) {
      const wave = Math.sin(x / (190 - ridge * 25) + seed * 2 + ridge * 1.7);
      brush.lineTo(
        x,
        470 + ridge * 110 - (wave + Math.sin(x / 67 + seed) * 0.3) * (90 - ridge * 15),
      );
    }
    brush.lineTo(WIDTH, HEIGHT);
    brush.fill();
  }
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
  return new File([blob], `${name}.jpg`, { type: blob.type });
}
