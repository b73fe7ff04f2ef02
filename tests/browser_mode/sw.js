self.DURABLY = { bundle: "/durably/", pages: ["/", "/jobs.py"] };
importScripts("/durably/service-worker.js");
