"""The serving plane of one machine: processes behind Traefik, scraped by Prometheus, kept by a supervisor."""
