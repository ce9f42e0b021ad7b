// A handler for tests. Built with componentize-js. It fetches the URL behind `?` and throws what that throws.
addEventListener("fetch", (event) =>
  event.respondWith(
    (async () => {
      const answer = await fetch(new URL(event.request.url).search.slice(1));
      return new Response(await answer.text(), { status: answer.status });
    })(),
  ),
);
