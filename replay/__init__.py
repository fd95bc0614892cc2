"""Experience on its way from actors to learner: a queue and a uniform replay, over Reverb or in
one process's memory."""
