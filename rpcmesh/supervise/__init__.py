"""Child processes: started on a tether, restarted by policy, logged line by line, and gone with their parent."""
