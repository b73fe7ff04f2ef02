import { durably } from "./durably";
import { FollowedRun, JobCard, useStart } from "./job-card";
import type { Thumbnail } from "./jobs";
import { Drop } from "./parts";
import { samplePhotos } from "./samples";
import { patiently, upload } from "./upload";
import { useRun, useSteps } from "./use-run";

/** Thumbnails of photos; each is a step, and shows as soon as it is committed. */
export function ThumbnailsCard() {
  const { trigger, currentRunId, ...result } = durably["make-thumbnails"].useJob();
  const { begin, ...starting } = useStart(async (files: File[]) => {
    const photos = await Promise.all(files.map(upload));
    const idempotencyKey = crypto.randomUUID();
    await patiently(() => trigger({ photos }, { idempotencyKey }));
  });
  return (
    <JobCard
      title="Thumbnails"
      hint="Four at a time, side by side"
      {...starting}
      starter={
        <>
          <Drop
            label={
              <span>
                <b>Choose photos</b> or drop them here
                <br />
                <small>anything that Pillow can read</small>
              </span>
            }
            accept="image/*"
            multiple
            onFiles={begin}
          />
          <button type="button" onClick={async () => begin(await samplePhotos())}>
            Use eight painted ones
          </button>
        </>
      }
      run={
        currentRunId && (
          <FollowedRun runId={currentRunId} result={result} unit="photos">
            <Gallery runId={currentRunId} version={[result.progress?.current, result.status]} />
          </FollowedRun>
        )
      }
    />
  );
}

function Gallery({ runId, version }: { runId: string; version: unknown }) {
  const run = useRun(runId);
  const steps = useSteps(runId, version);
  const total = run?.jobName === "make-thumbnails" ? run.input.photos.length : 0;
  const made = steps
    .filter(({ status }) => status === "completed")
    .map(({ output }) => output as Thumbnail);
  const missing = Math.max(0, total - made.length);
  return (
    <ul className="gallery" aria-label="Thumbnails">
      {made.map(({ name, digest, width, height }, at) => (
        <li key={`${at} ${digest}`}>
          <img
            src={`/api/thumbnails/${digest}`}
            alt={name}
            title={name}
            width={width}
            height={height}
          />
        </li>
      ))}
      {Array.from({ length: missing }, (_, at) => (
        <li key={at} className="gap" aria-hidden="true" />
      ))}
    </ul>
  );
}
