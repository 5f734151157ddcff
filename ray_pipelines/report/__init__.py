"""What a run measured: figures (`metrics`) and how a terminal shows them (`terminal`)."""
