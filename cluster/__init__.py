"""Where it runs: assembles the Serve application (app), starts it here (local), and the operator's hand (cli)."""
