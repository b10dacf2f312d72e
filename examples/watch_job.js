// Follow a job in a browser, through the REST gateway. EventSource can't send headers, and tokens do not
// belong in URLs, so this reads the events of GET …:watch with fetch. It reconnects, after a random
// time, when the connection breaks.
//
//   const headers = { Authorization: `Bearer ${token}` };
//   await watchJob("https://jobs.example.com/customer/jobs/reboot-1:watch", headers, (job) => show(job));
//
// Returns the job when it is COMPLETED or CANCELED. Throws the error of the API, such as INVALID_TOKEN.

export async function watchJob(url, headers, onJob) {
  let job, lastId;
  for (;;) {
    try {
      const response = await fetch(url, { headers: lastId ? { ...headers, "Last-Event-ID": lastId } : headers });
      if (response.status === 204) return job;
      if (![200, 429, 502, 503, 504].includes(response.status)) {
        const body = await response.json().catch(() => ({})); // a proxy can send HTML
        throw Object.assign(new Error(), { reason: `HTTP_${response.status}` }, body);
      }
      let text = "";
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let chunk; response.ok && !(chunk = await reader.read()).done; ) {
        const events = (text + chunk.value).split("\n\n");
        text = events.pop();
        for (const event of events) {
          const field = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/)));
          if (field.event === "failure") throw Object.assign(new Error(), JSON.parse(field.data));
          if (!field.data) continue; // a heartbeat
          [job, lastId] = [JSON.parse(field.data), field.id];
          onJob(job);
          if (job.status === "COMPLETED" || job.status === "CANCELED") return job;
        }
      }
    } catch (error) {
      if (error.reason) throw error; // an error of the API; other errors are network errors
    }
    await new Promise((wake) => setTimeout(wake, 4000 * Math.random()));
  }
}
