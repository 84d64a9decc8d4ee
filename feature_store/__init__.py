"""Feature views: written once in Ibis, point-in-time offline, packed in Redis online, registered in Feast."""
