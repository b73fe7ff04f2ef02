self.DURABLY = { bundle: "/durably/", pages: ["/", "/release.html", "/jobs.py"] };
importScripts("/durably/service-worker.js");
