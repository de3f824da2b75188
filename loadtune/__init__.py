"""loadtune: which DataLoader setting, batch size and learning rate should this training use, and how sure is that?"""
